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

Beginnings = tuple[int, frozenset[str]]
"""How paths begin, in so many characters: whether one does is told by a single look."""

EVERYTHING: Final[Beginnings] = 0, frozenset({""})
NOTHING: Final[Beginnings] = 0, frozenset()


class Found(NamedTuple):
    """What answers a request, as an ASGI application."""

    path: str
    """The page's own path, without what may stand below it."""
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
        self._paths = tuple(self._probes)
        self._routes = checker.routes(
            prefix,
            details=said.details or "names",  # type: ignore[arg-type] # It was read as one of the three.
            authorize=None if said.token is None else bearer(said.token),
        )
        if exporter is not None:
            self._paths += (said.metrics or METRICS,)
            self._routes.append(exporter.route(said.metrics or METRICS))
        length = min(map(len, self._paths))
        self.beginnings: Beginnings = length, frozenset(path[:length] for path in self._paths)

    def find(self, scope: Scope) -> Found | None:
        """Return what answers a request, if it is for one of them."""
        for route in self._routes:
            match, parameters = route.matches(scope)
            if match is not Match.NONE:
                asked = below_root(scope)
                return Found(next(path for path in self._paths if asked.startswith(path)), route, parameters)
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


def below_root(scope: Scope) -> str:
    """Return the path below where the server has mounted the application."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
