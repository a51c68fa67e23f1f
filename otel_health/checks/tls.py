"""TLS: a server's certificate is valid, and will be for a while."""

import ssl
import time

from otel_health.check import CheckFunc
from otel_health.client.addresses import resolve
from otel_health.client.streams import Trust, connected, require_host, require_port
from otel_health.compose import threshold

DAY = 86_400.0


def lasts(
    host: str,
    *,
    port: int = 443,
    warn_days: float = 21.0,
    fail_days: float = 3.0,
    server_name: str | None = None,
    context: ssl.SSLContext | None = None,
) -> CheckFunc:
    """Return a check that makes a TLS handshake and looks when the certificate expires.

    It proves that the certificate is believed, names the host and lasts; a certificate that is expired, not yet
    valid, from an unknown authority or for somebody else fails as `SSLCertVerificationError`. It looks at the
    server's own certificate, not at when those above it expire, and asks nobody about revocation.

    Cost: one connection and one handshake; every 600 s is fine. Not critical. It observes `days_left`.

    Args:
        host: A name or an address, fixed in code.
        port: One on which TLS is spoken from the first byte.
        warn_days: From so many days left it warns.
        fail_days: From so many days left it fails.
        server_name: Whom the certificate must name, where that is not `host`.
        context: Verifies the certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense.

    Example:
        >>> checker.add("certificate", tls.lasts("shop.example.com"), interval=600, critical=False)
    """
    name = require_host("tls", host)
    require_port("tls", port)
    certified = name if server_name is None else require_host("tls", server_name)
    trust = Trust("tls", context)

    async def days_left() -> float:
        addresses = await resolve(name, port)
        async with connected(addresses, port, tls=await trust.context(), name=certified) as (_, writer):
            expires = writer.get_extra_info("peercert")["notAfter"]
        return (ssl.cert_time_to_seconds(expires) - time.time()) / DAY

    return threshold(days_left, warn=warn_days, fail=fail_days, low_is_bad=True, observation="days_left")
