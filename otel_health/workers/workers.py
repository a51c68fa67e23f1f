"""The worker processes of one service, which know of each other."""

import asyncio
import random
from contextlib import AsyncExitStack
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from otel_health import Checker, Degraded
from otel_health.check import LIVEZ, Check, require_name, require_seconds
from otel_health.forks import tell_of_forks
from otel_health.lifecycle.loop_monitor import EVENT_LOOP, require_open
from otel_health.workers.leadership import Leadership
from otel_health.workers.meeting import LOCK, SOCKET, file_of, meeting_place
from otel_health.workers.page import Page
from otel_health.workers.processes import Process
from otel_health.workers.scraping import Answering, Asking
from otel_health.workers.siblings import Siblings

WORKERS: Final = "workers"
"""The component that speaks for them."""

TICK: Final = 0.25
"""Seconds, at most, between two beats, and two looks at the others."""

RENEWAL: Final = 1.0
"""Seconds, at most, between two results of the component."""

FIRST_SECONDS: Final = 1.0
"""How long a worker that knows nothing yet leaves the first run of a shared check to the leader."""

UNWATCHED_SECONDS: Final = 30.0
"""How long the livez of a worker that has no `LoopMonitor` is believed after its last beat."""

PATIENCE: Final = (0.8, 0.95)
"""Parts of two intervals after which a worker that leads nobody runs a shared check itself, if no result has come.

One that lasts for its whole timeout then still ends before the last result expires. They are spread, so that the
first to run serves the others.
"""


class Measuring(Protocol):
    """What is asked of a `PrometheusExporter`."""

    siblings: Any

    async def own(self, accept: str = "") -> bytes:
        """Return what this process measures."""


class Workers:
    """Makes the workers of a service one, where a server runs several (gunicorn, `uvicorn --workers`).

    Open it in each worker, inside the open Checker. The workers find each other by their parent process, working
    directory, command line and `service_id`. One of them runs the checks that are declared `shared=True`, and the
    others take over its results; a component `workers` on `healthz` warns of those whose event loop stands still; and
    whichever worker is scraped shows what this library measures in all of them.

    Args:
        checker: This worker's Checker; it must be open.
        exporter: A `PrometheusExporter`, to show the other workers' health beside this one's.
        group: A name for those who belong together, in place of what the workers have in common.
        wedged_after: Seconds without a turn of its loop after which a worker is warned of.

    Raises:
        ValueError: An option is out of its range.
        TypeError: The exporter is no `PrometheusExporter`.

    Example:
        >>> async with checker, Workers(checker, exporter=exporter):
        ...     yield
    """

    def __init__(
        self,
        checker: Checker,
        *,
        exporter: Measuring | None = None,
        group: str | None = None,
        wedged_after: float = 5.0,
    ) -> None:
        if group is not None:
            require_name(group, "group of workers")
        require_seconds("Workers", "wedged_after", wedged_after)
        if exporter is not None and not hasattr(exporter, "siblings"):
            raise TypeError(f"Workers: exporter is a {type(exporter).__name__}; pass a PrometheusExporter")
        self._checker = checker
        self._exporter = exporter
        self._group = group
        self.wedged_after = wedged_after
        self._tick = min(TICK, wedged_after / 4)
        self._siblings: Siblings | None = None
        self._leadership: Leadership | None = None
        self._answering: Answering | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open: AsyncExitStack | None = None
        self._full = False
        tell_of_forks(self)

    @property
    def leads(self) -> bool:
        """Whether this worker runs the shared checks."""
        return self._leadership is not None and self._leadership.held

    @property
    def place(self) -> Path:
        """The directory where the workers meet."""
        return meeting_place(self._group, self._checker.service.service_id)

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("these Workers are already open; open them once in each process")
        require_open(self._checker, "Workers")
        async with AsyncExitStack() as opened:
            opened.callback(self._forget)
            siblings = self._siblings = Siblings(self.place)
            opened.callback(siblings.close)
            leadership = self._leadership = Leadership(siblings.place / LOCK)
            opened.callback(leadership.give_up)
            if self._exporter is not None:
                self._answering = Answering(file_of(siblings.place, siblings.own, SOCKET), self._exporter.own)
                opened.callback(self._answering.close)
                self._exporter.siblings = Asking(siblings.place, siblings.own, lambda: list(siblings.look()))
            self._checker.add(WORKERS, self._check, interval=min(RENEWAL, self.wedged_after / 2), probes=(), local=True)
            leadership.seek()
            self._checker.engine.share(self)
            self._beat()
            opened.callback(self._stop)
            self._open = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.aclose()

    def others(self) -> list[int]:
        """Return the process numbers of the other workers; safe from any thread."""
        return [] if self._siblings is None else [other.pid for other in self._siblings.look()]

    def dead(self) -> list[int]:
        """Return the process numbers of the other workers whose livez fails; safe from any thread."""
        siblings, now = self._siblings, self._checker.now()
        pages = {} if siblings is None else siblings.look()
        return [other.pid for other, page in pages.items() if not page.livez or now >= page.believed_until]

    def forked(self) -> None:
        """Be closed, in a forked child, which is no worker: what is open is the parent's."""
        if self._open is None:
            return
        self._open.pop_all()
        for held in (self._siblings, self._answering):
            if held is not None:
                held.forked()
        if self._leadership is not None:
            self._leadership.give_up()
        self._forget()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._checker.engine.share(None)
        self._forget()

    def _forget(self) -> None:
        if self._exporter is not None:
            self._exporter.siblings = None
        if WORKERS in self._checker:
            self._checker.remove(WORKERS)
        self._siblings = self._leadership = self._answering = self._timer = self._open = None

    # On the loop.

    def _beat(self) -> None:
        """Tell the others that this loop turns, and learn from them."""
        assert self._siblings is not None
        assert self._leadership is not None
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._beat)
        engine = self._checker.engine
        if engine.leaving:
            # Another may speak for all as soon as nothing of what this one has said is still to be taken back.
            if not any(each.may_be_known for each in engine.registrations):
                self._leadership.give_up()
        elif self._leadership.seek():
            engine.share(self)
        self._learn()
        self._tell()
        self._siblings.stay()

    def _learn(self) -> set[str]:
        """Adopt what the others know better; the checks of which that was so."""
        pages = {} if self._siblings is None else self._siblings.look()
        found = sorted((each for page in pages.values() for each in page.results), key=itemgetter(1), reverse=True)
        return {result.component for result, finished in found if self._checker.engine.adopt(result, finished)}

    def _tell(self) -> None:
        told = self._siblings is None or self._siblings.tell(self._page())
        if not told and not self._full:
            self._checker.fault("there are too many shared checks to tell the other workers of; each runs them itself")
        self._full = not told

    def _page(self) -> Page:
        livez = self._checker.report(LIVEZ)
        loop = livez.components.get(EVENT_LOOP)
        beat = self._checker.now()
        believed_until = loop.expires_at if loop is not None and loop.decided else beat + UNWATCHED_SECONDS
        return Page(beat, livez.status.up, believed_until, tuple(self._checker.engine.shared_results()))

    # What the Checker asks of us.

    def wait(self, check: Check, finished: float) -> float:
        """Return for how many seconds the run of a shared check waits for another worker's result."""
        if self.leads or self._full:
            return 0.0
        if finished == float("-inf"):
            return min(FIRST_SECONDS, check.interval) * random.uniform(0.5, 1.0)
        return finished + 2 * check.interval * random.uniform(*PATIENCE) - self._checker.now()

    def spares(self, check: Check) -> bool:
        """Return whether another worker's result was adopted in place of the run that is due."""
        return not self.leads and check.name in self._learn()

    def ran(self, check: Check) -> None:  # noqa: ARG002 - the page has them all.
        """Tell the others at once: whether they run the check themselves may depend on it."""
        self._tell()

    # The component.

    async def _check(self) -> dict[str, float]:
        """Pass while every worker's loop turns.

        Raises:
            Degraded: Some do not.
        """
        pages = {} if self._siblings is None else self._siblings.look()
        wedged = self._wedged(pages)
        workers = len(pages) + 1
        if wedged:
            pids = ", ".join(str(each.pid) for each in wedged)
            raise Degraded(
                f"{len(wedged)} of {workers} workers do not beat: {pids}", workers=workers, wedged=len(wedged)
            )
        return {"workers": workers, "wedged": 0}

    def _wedged(self, pages: dict[Process, Page]) -> list[Process]:
        now = self._checker.now()
        return sorted(other for other, page in pages.items() if now - page.beat >= self.wedged_after)
