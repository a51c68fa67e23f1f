"""The health of a process: its Checker, when it runs, and the routes that show it."""

import os
from contextlib import AsyncExitStack
from typing import Any, Final

from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from otel_health import Checker
from otel_health.access import bearer
from otel_health.lifecycle import LivenessServer
from otel_health.prometheus import PrometheusExporter
from otel_health.workers import Workers
from otel_health_instrumentation.configuration import NONE, Configuration
from otel_health_instrumentation.guard import guarded

METRICS: Final = "/metrics"

OF_A_CHECKER: Final = (
    "timeout",
    "interval",
    "answer_within",
    "failure_threshold",
    "success_threshold",
    "tracebacks",
    "trace",
    "version",
    "release_id",
)
"""The options that are handed to the Checker as they are."""


class Health:
    """One Checker, opened where the application runs: on the server's event loop, or in a thread of ours.

    Args:
        configuration: What the operator said.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.exporter = None if configuration.metrics == NONE else _exporter()
        self.checker = Checker(
            meter_provider=None if self.exporter is None else self.exporter.meter_provider,
            service_id=configuration.service_id or os.environ.get("OTEL_SERVICE_NAME"),
            **{name: said for name in OF_A_CHECKER if (said := getattr(configuration, name)) is not None},
        )
        self.routes = self._routes()
        self._opened: AsyncExitStack | None = None

    def route(self, scope: Scope) -> BaseRoute | None:
        """Return the route that answers this request, made ready to handle it; None where it is the application's."""
        for route in self.routes:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                scope.update(found)
                return route
        return None

    async def open(self) -> None:
        """Run the checks on this event loop from now on; once is enough for a process."""
        if self.checker.is_open:
            return
        self._opened = opened = AsyncExitStack()
        with guarded("start its checks"):
            await opened.enter_async_context(self.checker)
            workers = await self._with_siblings(opened)
            await self._with_liveness(opened, workers)

    async def close(self) -> None:
        """Run the checks no more, on the loop where they were opened."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with guarded("stop its checks"):
                await opened.aclose()

    def forget(self) -> None:
        """Take the metrics off the provider they were put on."""
        if self.exporter is not None:
            self.exporter.shutdown()

    async def _with_siblings(self, opened: AsyncExitStack) -> Workers | None:
        if not (self._configuration.workers or self._configuration.liveness_port):
            return None
        with guarded("find the other workers"):
            return await opened.enter_async_context(Workers(self.checker, exporter=self.exporter))
        return None

    async def _with_liveness(self, opened: AsyncExitStack, workers: Workers | None) -> None:
        port = self._configuration.liveness_port
        if port is not None:
            with guarded(f"serve liveness on port {port}"):
                await opened.enter_async_context(LivenessServer(self.checker, port=port, workers=workers))

    def _routes(self) -> list[BaseRoute]:
        said = self._configuration
        options: dict[str, Any] = {"details": said.details or "names"}
        if said.token is not None:
            options["authorize"] = bearer(said.token)
        routes = self.checker.routes(said.prefix or "", **options)
        if self.exporter is not None:
            routes.append(self.exporter.route(said.metrics or METRICS))
        return routes


def _exporter() -> PrometheusExporter:
    """A Prometheus reader on the application's own meter provider, or, where there is no SDK, on one of our own."""
    provider = get_meter_provider()
    if isinstance(provider, MeterProvider):
        return PrometheusExporter(meter_provider=provider)
    return PrometheusExporter(service_name=os.environ.get("OTEL_SERVICE_NAME"))
