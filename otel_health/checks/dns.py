"""DNS: a name resolves."""

from collections.abc import Collection

from otel_health.check import CheckFunc, CheckReturn, Failed
from otel_health.client.addresses import literal, look_up
from otel_health.client.streams import require_host


def resolves(name: str, *, expected: Collection[str] = ()) -> CheckFunc:
    """Return a check that resolves a name as the application's own clients do: by the system's resolver.

    It proves what `getaddrinfo` answers, hosts file and search domains included; not that a certain name server
    answers, nor that the addresses are right unless they are given. The resolver has no time limit of its own that
    could be set: one that hangs holds one thread of the Checker, and the check is `hung` until it comes back.

    Cost: a query or two, where no cache answers; every 10 to 60 s is fine. It observes `addresses`.

    Args:
        name: The name to resolve.
        expected: The addresses that may be found; another one fails.

    Raises:
        ValueError: The name is ill-formed, or an expected address is none.

    Example:
        >>> checker.add("dns", dns.resolves("orders.internal"), critical=False)
    """
    host = require_host("dns", name)
    if literal(host) is not None:
        raise ValueError("dns: an address needs no resolution and proves nothing; give a name")
    if isinstance(expected, str) or None in (allowed := {literal(address) for address in expected}):
        raise ValueError(f"dns: expected={expected!r} must be a set of addresses, such as {{'10.0.0.7'}}")

    def check() -> CheckReturn:
        found = look_up(host)
        unexpected = len(set(found) - allowed) if expected else 0
        if unexpected:
            raise Failed(f"{unexpected} of {len(found)} addresses are not expected", addresses=len(found))
        return {"addresses": len(found)}

    return check
