"""TCP: a port accepts connections."""

from otel_health.check import CheckFunc
from otel_health.client.addresses import resolve
from otel_health.client.streams import connected, require_host, require_port


def accepts(host: str, *, port: int) -> CheckFunc:
    """Return a check that connects to a port and closes the connection again.

    It proves that the name resolves and that a kernel accepts for the process; a process that hangs behind its open
    port passes. Where a check for what is spoken there exists, take that.

    Cost: one connection, which some servers log; every 10 to 30 s is fine.

    Args:
        host: A name or an address, fixed in code.
        port: From 1 to 65535.

    Raises:
        ValueError: The host or the port is ill-formed.

    Example:
        >>> checker.add("legacy", tcp.accepts("legacy.internal", port=9000), critical=False)
    """
    name = require_host("tcp", host)
    require_port("tcp", port)

    async def check() -> None:
        async with connected(await resolve(name, port), port):
            return

    return check
