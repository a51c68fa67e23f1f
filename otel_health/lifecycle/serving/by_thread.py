"""Serving by a thread of this process: it reads the state, runs nothing, and needs only the interpreter's lock."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple, Protocol

from otel_health import Checker
from otel_health.http.render import Details
from otel_health.lifecycle.serving.answers import Answers, Dead
from otel_health.lifecycle.serving.http1 import NOT_FOUND, UNAVAILABLE, Answer, Request
from otel_health.lifecycle.serving.listener import Later, Listener
from otel_health.lifecycle.serving.sidecar import asked_for, probe_at
from otel_health.threads import Threads

METRICS: Final = b"/metrics"

MAX_SCRAPES: Final = 4
"""Different scrapes that may be under way; who asks for the same is answered by the same."""

_ZIPPED: Final = b"content-encoding: gzip\r\nvary: accept-encoding\r\n"


class Wanted(NamedTuple):
    """How a scraper wants the metrics."""

    accept: bytes
    zipped: bool


class Scraped(Protocol):
    """What is asked of a `PrometheusExporter`."""

    async def scraped(self, accept: str = "", *, zipped: bool = False) -> tuple[bytes, str]:
        """Return everything that is measured, and its media type."""


class ByThread:
    """Answers probes, and scrapes where there is an exporter, in the thread that calls `serve`.

    Args:
        checker: Whose probes are answered.
        probes: Which of them.
        details: What anyone may see.
        metrics: Whom to scrape; None for nobody.
        ring: Has `wake` become readable, from any thread.
        dead: Names the other workers whose livez fails.
    """

    def __init__(
        self,
        checker: Checker,
        probes: Collection[str],
        details: Details,
        metrics: Scraped | None,
        ring: Callable[[], None],
        dead: Dead = list,
    ) -> None:
        self._probes = frozenset(probes)
        self._answers = Answers(checker, details, dead)
        self._metrics = metrics
        self._ring = ring
        self._scraper = Threads(working=1, total=1)
        self._askers: dict[Wanted, list[Later]] = {}
        self._scrapes: deque[tuple[Wanted, Answer]] = deque()
        self._listener: Listener | None = None

    def serve(self, listening: socket.socket, wake: socket.socket, started: Callable[[], None]) -> None:
        """Serve on a listening socket until `wake` is closed."""
        self._listener = Listener(listening, self._respond, wake.fileno(), partial(self._woken, wake))
        try:
            self._listener.serve(started)
        finally:
            self._scraper.close()

    def abandon(self) -> None:
        """Close what a forked child has of the connections."""
        if self._listener is not None:
            self._listener.abandon()

    def _respond(self, request: Request, later: Later) -> Answer | None:
        probe = probe_at(request.path)
        scraped = self._metrics is not None and request.path == METRICS
        if probe not in self._probes and not scraped:
            return NOT_FOUND
        if scraped and request.method in (b"GET", b"HEAD"):
            return self._ask(Wanted(request.accept, request.zipped), later)
        media_type = asked_for(request)
        return media_type if isinstance(media_type, Answer) else self._answers.answer(probe, media_type)

    def _ask(self, wanted: Wanted, later: Later) -> Answer | None:
        """Have the exporter scraped, unless it is under way for somebody who wants the same."""
        askers = self._askers.get(wanted)
        if askers is not None:
            askers.append(later)
            return None
        if len(self._askers) >= MAX_SCRAPES:
            return UNAVAILABLE
        self._askers[wanted] = [later]
        self._scraper.submit(partial(self._scrape, wanted))
        return None

    def _scrape(self, wanted: Wanted) -> None:
        """Scrape on a loop of its own: the application's may be stuck."""
        assert self._metrics is not None
        try:
            scraping = self._metrics.scraped(wanted.accept.decode("latin-1"), zipped=wanted.zipped)
            text, media_type = asyncio.run(scraping)
            answer = Answer(200, media_type, text, _ZIPPED if wanted.zipped else b"")
        except BaseException:  # noqa: BLE001 - a collector of the application's own may raise anything, or take too long.
            answer = UNAVAILABLE
        self._scrapes.append((wanted, answer))
        self._ring()

    def _woken(self, wake: socket.socket) -> bool:
        """Hand out what was scraped; False when there is nothing more to serve."""
        if not wake.recv(64):
            return False
        while self._scrapes:
            wanted, answer = self._scrapes.popleft()
            for later in self._askers.pop(wanted):
                later(answer)
        return True
