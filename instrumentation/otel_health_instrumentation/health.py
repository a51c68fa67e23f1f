"""The health of a process: its Checker, and where and when that runs."""

import asyncio
import os
from contextlib import AsyncExitStack, suppress
from typing import Final

from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider

from otel_health import Checker
from otel_health.forks import tell_of_forks
from otel_health.lifecycle import LivenessServer
from otel_health.prometheus import PrometheusExporter
from otel_health.threads import are_greenlets
from otel_health.workers import Workers
from otel_health_instrumentation.background import Background
from otel_health_instrumentation.clients import Clients
from otel_health_instrumentation.configuration import NONE, Configuration
from otel_health_instrumentation.greenlets import beside_this
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.pages import EVERYTHING, NOTHING, Beginnings, Pages

END_SECONDS: Final = 2.0
"""How long ending waits, at most, for runs that are under way."""

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

    Nothing runs before an application lives or is asked, so it does not matter what is imported or forked before.

    Args:
        said: What the operator said.
    """

    def __init__(self, said: Configuration) -> None:
        self._said = said
        self._exporter = None if said.metrics == NONE else _exporter()
        self.checker = Checker(
            meter_provider=None if self._exporter is None else self._exporter.meter_provider,
            service_id=said.service_id or os.environ.get("OTEL_SERVICE_NAME"),
            **{name: value for name in OF_A_CHECKER if (value := getattr(said, name)) is not None},
        )
        self.clients = _clients(self.checker, said)
        self.pages = Pages(self.checker, self._exporter, said)
        self.background = Background()
        self._opened: AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        tell_of_forks(self)

    def forked(self) -> None:
        """Have the next request start the checks, in a forked child: nothing of the parent's runs there."""
        PROCESS.look_at(EVERYTHING, self)

    async def open(self) -> None:
        """Run the checks on this event loop from now on, unless they run already, or this was left meanwhile."""
        if self.checker.is_open or PROCESS.health is not self:
            return
        with guarded("start the checks"):
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._loop, self._opening = loop, asyncio.Lock()
            async with self._opening:
                if not self.checker.is_open:
                    await self._open()

    async def _open(self) -> None:
        if self.clients is not None:
            # Whoever asks first, perhaps for readiness, is to hear of the clients that there are.
            with guarded("look at the clients"):
                await self.clients.settle()
        opened = AsyncExitStack()
        await opened.enter_async_context(self.checker)
        self._opened, self._loop = opened, asyncio.get_running_loop()
        if self.clients is not None:
            self.clients.watch()
        workers = await self._find_workers(opened)
        await self._serve_liveness(opened, workers)
        PROCESS.look_at(self.pages.beginnings, self)

    async def close(self) -> None:
        """Run the checks no more, if it was on this event loop that they were started."""
        if self._loop is not asyncio.get_running_loop():
            return  # The life of an application that ends beside the one that runs them.
        opened, self._opened = self._opened, None
        if opened is not None:
            PROCESS.look_at(EVERYTHING, self)
            with guarded("stop the checks"):
                await opened.aclose()

    def start(self) -> bool:
        """Run the checks in a thread of ours from now on, unless they run already; whether there is such a thread."""
        if self.checker.is_open or self.background.running:
            return True
        with guarded("start the checks in a thread"):
            if self.clients is not None and are_greenlets():
                self.clients.call = beside_this()
            self.background.call(self.open())
            return True
        return False

    def end(self) -> None:
        """Run the checks no more, from whatever thread, and take the metrics off their provider."""
        if self.background.running:
            with suppress(TimeoutError):
                self.background.call(self.close()).result(END_SECONDS)
            self.background.stop()
        if self.checker.is_open and self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.close(), self._loop)
        if self._exporter is not None:
            self._exporter.shutdown()

    async def _find_workers(self, opened: AsyncExitStack) -> Workers | None:
        if self._said.workers or self._said.liveness_port:
            with guarded("find the other workers"):
                return await opened.enter_async_context(Workers(self.checker, exporter=self._exporter))
        return None

    async def _serve_liveness(self, opened: AsyncExitStack, workers: Workers | None) -> None:
        port = self._said.liveness_port
        if port is not None:
            with guarded(f"serve liveness on port {port}"):
                await opened.enter_async_context(LivenessServer(self.checker, port=port, workers=workers))


def _exporter() -> PrometheusExporter:
    """A reader on the application's own meter provider, or, where there is no SDK, on a provider of ours."""
    provider = get_meter_provider()
    if isinstance(provider, MeterProvider):
        return PrometheusExporter(meter_provider=provider)
    return PrometheusExporter(service_name=os.environ.get("OTEL_SERVICE_NAME"))


def _clients(checker: Checker, said: Configuration) -> Clients | None:
    """What makes the application's clients checks, unless nobody wants that."""
    if said.clients == [NONE]:
        return None
    return Clients(checker, technologies=said.clients, critical=said.critical or (), passive_for=said.passive_for)


class _Process:
    """What there is once in a process; in slots, because each request looks here."""

    __slots__ = ("health", "looked_at")

    health: Health | None
    """Its health; None while nothing is instrumented."""
    looked_at: Beginnings
    """Which requests are looked at more closely: every one until checks run, for it is to start them."""

    def __init__(self) -> None:
        self.have(None)

    def have(self, health: Health | None) -> None:
        """Have this be the health of the process from now on."""
        self.health = health
        self.looked_at = NOTHING if health is None else EVERYTHING

    def look_at(self, beginnings: Beginnings, health: Health) -> None:
        """Look at these requests from now on, if this is still the health of the process."""
        if self.health is health:
            self.looked_at = beginnings


PROCESS: Final = _Process()
