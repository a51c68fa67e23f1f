"""HTTP: a URL answers as it should."""

import re
import ssl
from collections.abc import Collection, Mapping

from otel_health.check import CheckFunc, Failed, require_bool
from otel_health.client.requests import Answer, ask, require_request
from otel_health.client.streams import Trust


def answers(
    url: str,
    *,
    statuses: Collection[int] = range(200, 300),
    contains: str | None = None,
    matches: str | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    redirects: int = 0,
    public: bool = False,
    context: ssl.SSLContext | None = None,
) -> CheckFunc:
    """Return a check that asks a URL and judges the answer's status and the first 4 KiB of its body.

    It proves the way there as a new client finds it: the name resolves, somebody accepts, the certificate is valid,
    HTTP is spoken. It does not prove that the connections your client already holds still work. How slow is too slow
    is said by the Checker: `warn_after` and `timeout`. Latency is the run's duration.

    It never connects to link-local, reserved or metadata addresses, to this machine only where the URL says
    localhost or a loopback address, and obeys no proxy variables.

    Cost: one connection and one request; every 10 to 30 s is fine. On `readyz` only where the service can do
    nothing without it.

    Args:
        url: The target, fixed in code: http or https, without user and password.
        statuses: Which status codes pass.
        contains: What the body must contain.
        matches: A regular expression that must be found in the body.
        method: The request's method.
        headers: Sent with the request, and to nobody else: a redirect to another origin goes without.
        redirects: How many redirects may be followed; none unless asked for. To another host or port they are
            followed at public addresses only.
        public: Whether the target is on the Internet, so that it must not lead to a private address.
        context: Verifies the certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense, or the target is one that is never asked.

    Example:
        >>> checker.add("stripe", http.answers("https://api.stripe.com/healthcheck", public=True), warn_after=1.0)
    """
    request = require_request("http", url, method=method, headers=headers, public=public)
    trust = Trust("http", context)
    require_bool("http", "public", public)
    passing = _require_statuses(statuses)
    pattern = re.compile(matches) if matches is not None else None
    if isinstance(redirects, bool) or not isinstance(redirects, int) or not 0 <= redirects <= 10:
        raise ValueError(f"http: redirects={redirects!r} must be a whole number from 0 to 10")

    async def check() -> None:
        answer = await ask(request, trust, redirects=redirects, read_body=contains is not None or pattern is not None)
        _judge(answer, passing, contains, pattern)

    return check


def _require_statuses(statuses: Collection[int]) -> frozenset[int]:
    passing = frozenset(statuses if isinstance(statuses, Collection) else ())
    if not passing or any(isinstance(code, bool) or code not in range(200, 600) for code in passing):
        raise ValueError(
            f"http: statuses={statuses!r} must be a set of status codes from 200 to 599, such as {{200, 204}}"
        )
    return passing


def _judge(answer: Answer, passing: frozenset[int], contains: str | None, pattern: re.Pattern[str] | None) -> None:
    if answer.status not in passing:
        raise Failed(f"answered {answer.status}")
    body = answer.body.decode("utf-8", "replace")
    if contains is not None and contains not in body:
        raise Failed("the body does not contain what it should")
    if pattern is not None and pattern.search(body) is None:
        raise Failed("the body does not match")
