"""SMTP: a mail server takes commands, and credentials if they are given."""

import asyncio
import base64
import ssl
from typing import Literal

from otel_health.check import CheckFunc, Failed
from otel_health.client.addresses import resolve
from otel_health.client.streams import Trust, connected, require_host, require_port

_REPLY_LINES = 100


def answers(
    host: str,
    *,
    port: int = 587,
    security: Literal["starttls", "tls", "none"] = "starttls",
    user: str | None = None,
    password: str | None = None,
    context: ssl.SSLContext | None = None,
) -> CheckFunc:
    """Return a check that greets a mail server, secures the connection, and signs in if it is told as whom.

    It proves that the server talks, that its certificate is valid and, with `user`, that the credentials are taken.
    It sends no mail: whether one would be delivered is not seen.

    Cost: one connection, a TLS handshake, an entry in the server's log, and with `user` a sign-in, which some
    servers limit; every 60 s is fine. Not critical.

    Args:
        host: A name or an address, fixed in code.
        port: 587 for STARTTLS, 465 for TLS from the first byte, 25 for a relay.
        security: How the connection is secured; with `"none"` nothing is.
        user: Signs in as this user, by AUTH PLAIN.
        password: The user's password; it is said to the server alone, and only over TLS.
        context: Verifies the certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense, or would send the password for all to read.

    Example:
        >>> checker.add("mail", smtp.answers("mail.internal"), interval=60, critical=False)
    """
    name = require_host("smtp", host)
    require_port("smtp", port)
    if security not in ("starttls", "tls", "none"):
        raise ValueError(f"smtp: security={security!r} must be 'starttls', 'tls' or 'none'")
    if (user is None) != (password is None):
        raise ValueError("smtp: user and password go together; give both or none")
    if user is not None and security == "none":
        raise ValueError("smtp: a password is sent over TLS only; say security='starttls' or 'tls'")
    trust = Trust("smtp", context)
    credentials = base64.b64encode(f"\0{user}\0{password}".encode()).decode() if user is not None else None

    async def check() -> None:
        addresses = await resolve(name, port)
        tls = None if security == "none" else await trust.context()
        async with connected(addresses, port, tls=tls if security == "tls" else None, name=name) as (reader, writer):
            await _answered(reader, "the greeting", 220)
            await _command(reader, writer, "EHLO localhost", 250)
            if security == "starttls" and tls is not None:
                await _command(reader, writer, "STARTTLS", 220)
                await writer.start_tls(tls, server_hostname=name)
                await _command(reader, writer, "EHLO localhost", 250)
            if credentials is not None:
                await _command(reader, writer, f"AUTH PLAIN {credentials}", 235)
            await _command(reader, writer, "NOOP", 250)
            await _command(reader, writer, "QUIT", 221)

    return check


async def _command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, expected: int) -> None:
    writer.write(f"{command}\r\n".encode("ascii"))
    await _answered(reader, command.partition(" ")[0], expected)


async def _answered(reader: asyncio.StreamReader, what: str, expected: int) -> None:
    """Read a reply; its text is the server's, may repeat what was sent, and is not told."""
    for _ in range(_REPLY_LINES):
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise Failed("what came back is no SMTP") from None
        except asyncio.IncompleteReadError:
            raise ConnectionError("the connection was closed before the answer had ended") from None
        if not line[:3].isdigit() or line[3:4] not in b"- \r\n":
            raise Failed("what came back is no SMTP")
        if int(line[:3]) != expected:
            raise Failed(f"{what} was answered {int(line[:3])}")
        if line[3:4] != b"-":
            return
    raise Failed("what came back is no SMTP")
