"""The pages that a process shows in front of its application: the probes, and the metrics."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from otel_health import Checker
from otel_health.access import bearer
from otel_health.http.negotiation import parse_query
from otel_health.prometheus import PrometheusExporter
from otel_health_instrumentation.configuration import Configuration

METRICS: Final = "/metrics"

SEEN: Final = "otel_health.seen"
"""Marks requests that have been here: of several applications inside each other only the outermost answers.

It has a dot: in WSGI whatever has none is a text (PEP 3333).
"""

Beginnings = tuple[int, frozenset[str]]
"""How paths begin, in so many characters: whether one does is told by a single look."""

EVERYTHING: Final[Beginnings] = 0, frozenset({""})
NOTHING: Final[Beginnings] = 0, frozenset()


class Found(NamedTuple):
    """What answers a request, as an ASGI application."""

    path: str
    """The page's own path."""
    below: str
    """What stands below it in the request."""
    route: BaseRoute
    parameters: Mapping[str, Any]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request that it was found for."""
        scope.update(self.parameters)
        await self.route.handle(scope, receive, send)


class Pages:
    """The probes of a Checker, and the metrics of an exporter if there is one, where the operator wants them."""

    def __init__(self, checker: Checker, exporter: PrometheusExporter | None, said: Configuration) -> None:
        prefix = said.prefix or ""
        self._checker = checker
        self._details = said.details
        self._probes = {f"{prefix}/{probe}": probe for probe in checker.probes}
        (probes,) = checker.routes(
            prefix,
            details=said.details or "names",  # type: ignore[arg-type] # It was read as one of the three.
            authorize=None if said.token is None else bearer(said.token),
        )
        pages = dict.fromkeys(self._probes, probes)
        if exporter is not None:
            metrics = said.metrics or METRICS
            pages.setdefault(metrics, exporter.route(metrics))
        # The metrics may stand below a probe, and are no component of it.
        self._pages = sorted(pages.items(), key=lambda page: -len(page[0]))
        length = min(map(_plain, pages))
        self.beginnings: Beginnings = length, frozenset(path[:length] for path in pages)

    def find(self, scope: Scope) -> Found | None:
        """Return what answers a request, if it is for one of them."""
        asked = below_root(scope)
        for path, route in self._pages:
            if asked.startswith(path):
                match, parameters = route.matches(scope)
                if match is not Match.NONE:
                    return Found(path, asked.removeprefix(path), route, parameters)
        return None

    def is_probe(self, found: Found) -> bool:
        """Return whether it is a probe that answers, or what stands below one."""
        return found.path in self._probes

    def standing(self, found: Found, query: bytes) -> HTTPStatus:
        """Return what a probe answers by the state as it stands; safe from any thread."""
        parsed = parse_query(query)
        if parsed is None:
            return HTTPStatus.BAD_REQUEST
        # Where anyone may see the status alone, nobody learns the names of components by asking for them.
        secret = self._details == "status"
        probe, below = self._probes[found.path], found.parameters["path_params"]["component"].removesuffix("/")
        if below:
            report = None if secret else self._checker.report_one(probe, below)
        else:
            report = self._checker.report(probe, exclude=() if secret else parsed[1])
        if report is None:
            return HTTPStatus.NOT_FOUND
        return HTTPStatus.OK if report.status.up else HTTPStatus.SERVICE_UNAVAILABLE


def _plain(path: str) -> int:
    """Return how many letters it begins with that WSGI, where texts are bytes in disguise, has as they are."""
    return next((at for at, letter in enumerate(path) if not letter.isascii()), len(path))


def below_root(scope: Scope) -> str:
    """Return the path below where the server has mounted the application."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
