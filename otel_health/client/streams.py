"""Connections of our own network checks: opened to addresses that are known, and always closed."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from otel_health.client.addresses import Address, literal
from otel_health.compose import blocking

LINE_BYTES: Final = 8192
"""The longest line that is read."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(
    addresses: Sequence[Address], port: int, *, tls: ssl.SSLContext | None = None, name: str = ""
) -> AsyncIterator[Streams]:
    """Connect to the first of the addresses that accepts, and close the connection whatever happens.

    Args:
        addresses: Where to; a literal address needs no resolution, so nothing waits for the loop's threads.
        port: The port.
        tls: Speaks TLS from the first byte, where it is given.
        name: Whom the certificate must name.

    Raises:
        OSError: No address accepts; the last one's error.
    """
    reader, writer = await _open(addresses, port, tls, name)
    try:
        yield reader, writer
    finally:
        # Not `close`: over TLS that waits for the other side's goodbye, which a frozen one never says.
        writer.transport.abort()


async def _open(addresses: Sequence[Address], port: int, tls: ssl.SSLContext | None, name: str) -> Streams:
    async def open_one(address: Address) -> Streams:
        return await asyncio.open_connection(
            str(address), port, ssl=tls, server_hostname=name.removesuffix(".") if tls else None, limit=LINE_BYTES
        )

    *others, last = addresses
    for address in others:
        try:
            return await open_one(address)
        except ssl.SSLError:
            raise
        except OSError:
            continue
    return await open_one(last)


class Trust:
    """Whom a check's TLS connections believe: the context it was given, or the system's certificates.

    Those are read at the first use, in a thread: it takes tens of milliseconds, and a check must not hold the loop.
    """

    def __init__(self, subject: str, context: ssl.SSLContext | None) -> None:
        if context is not None and (context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname):
            raise ValueError(
                f"{subject}: the context does not verify the server's certificate and name; give one that does, "
                "such as ssl.create_default_context(cafile=...) for an authority of your own"
            )
        self._context = context

    async def context(self) -> ssl.SSLContext:
        """Return the context to connect with."""
        if self._context is None:
            self._context = await blocking("load the trusted certificates", ssl.create_default_context)
        return self._context


def require_host(subject: str, host: object) -> str:
    """Return the host as it is resolved and certified; refuse what is no host name and no address."""
    if not isinstance(host, str) or not host or len(host) > 253:
        raise ValueError(f"{subject}: the host must be a name of 1 to 253 characters, or an address")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "%" in bare:
        raise ValueError(f"{subject}: the host names a network interface after '%'; write the address without it")
    if literal(bare) is not None:
        return bare
    try:
        name = bare.encode("ascii" if bare.isascii() else "idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    labels = name.removesuffix(".").split(".")
    if not all(label and len(label) < 64 and all(c.isalnum() or c in "-_" for c in label) for label in labels):
        raise ValueError(
            f"{subject}: the host is no host name and no address; write only that, without scheme, user or port"
        )
    return name


def require_port(subject: str, port: object) -> int:
    """Return the port; refuse anything but 1 to 65535."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"{subject}: port={port!r} must be a whole number from 1 to 65535")
    return port
