"""Another service's health: what its own health endpoint says."""

import json
import re
import ssl
from collections.abc import Collection, Mapping
from urllib.parse import quote

from otel_health.check import CheckFunc, Degraded, Failed, require_name
from otel_health.client.requests import ask, require_request
from otel_health.client.streams import Trust

_WORDS = {
    **dict.fromkeys(("pass", "ok", "up", "server available"), "pass"),
    "warn": "warn",
    **dict.fromkeys(("fail", "error", "down", "server not available"), "fail"),
}
_ACCEPT = "application/health+json, application/json;q=0.9, */*;q=0.5"
_BEGINNING = re.compile(r'\s*\{\s*"status"\s*:\s*"(\w{1,32})"')


def healthy(
    url: str,
    *,
    exclude: Collection[str] = (),
    headers: Mapping[str, str] | None = None,
    public: bool = False,
    context: ssl.SSLContext | None = None,
) -> CheckFunc:
    """Return a check that asks another service's health endpoint and takes its word: pass, warn or fail.

    It understands health+json (draft-inadarei-api-health-check-06, section 3, with the words that it allows for
    Terminus and Spring Boot), the `health_check` extension of OpenTelemetry's Collector, and the text of Kubernetes'
    components, hence every endpoint of this library. What it does not understand fails; use `http` there. The other's
    reasons are not repeated: they are its own to tell.

    Two services that ask each other's readiness never become ready. Either name with `exclude` the other's check
    that asks back, which this library and Kubernetes' components leave out of their answer, or ask for a probe that
    asks nobody. Where it connects, and where it never does, is as with `http`; redirects are not followed.

    Cost: one connection and one request, and on the other side a report of the state as it stands; every 10 to 30 s
    is fine. Not critical, unless this service can do nothing without that one.

    Args:
        url: The health endpoint, fixed in code.
        exclude: Names of the other's checks that are to be left out of its answer.
        headers: Sent with the request, for authorisation.
        public: Whether the service is on the Internet, so that it must not lead to a private address.
        context: Verifies the certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense, or the target is one that is never asked.

    Example:
        >>> checker.add("orders", service.healthy("http://orders:8000/readyz", exclude={"payments"}), critical=False)
    """
    if isinstance(exclude, str):
        raise ValueError(f"service: exclude={exclude!r} must be a set of names, such as {{{exclude!r}}}")
    for name in exclude:
        require_name(name, "check to exclude")
    request = require_request(
        "service", _excluding(url, sorted(exclude)), headers=headers, public=public, accept=_ACCEPT
    )
    trust = Trust("service", context)

    async def check() -> None:
        answer = await ask(request, trust, read_body=True)
        if not 200 <= answer.status < 300:
            raise Failed(f"answered {answer.status}")
        said = _said(answer.body.decode("utf-8", "replace"))
        if said is None:
            raise Failed(f"answered {answer.status}, but nothing that is known to be a report of health")
        if said == "fail":
            raise Failed("says that it fails")
        if said == "warn":
            raise Degraded("says that it is degraded")

    return check


def _excluding(url: str, names: Collection[str]) -> str:
    if not names or not isinstance(url, str):
        return url
    query = "&".join(f"exclude={quote(name)}" for name in names)
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _said(body: str) -> str | None:
    """What a body says, if it is understood; of a long one the beginning is all there is."""
    if body.lstrip().startswith("{"):
        try:
            word = json.loads(body).get("status")
        except ValueError:
            beginning = _BEGINNING.match(body)
            word = beginning[1] if beginning is not None else None
        return _WORDS.get(word.lower()) if isinstance(word, str) else None
    last = body.rstrip().rpartition("\n")[2].lower()
    if last == "ok" or last.endswith(" check passed"):
        return "pass"
    return "fail" if last.endswith(" check failed") else None
