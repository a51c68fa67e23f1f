"""The event loop, watched from outside: how late it is, who blocks it, and when it is stuck for good."""

import asyncio
import logging
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Final, Self

from otel_health import Checker, names
from otel_health.check import LIVEZ, require_seconds
from otel_health.forks import tell_of_forks

EVENT_LOOP: Final = "event-loop"
"""The component that speaks for the loop."""

TICK: Final = 0.25
"""Seconds, at most, between two measurements of the lag, and between two looks of the watcher."""

RENEWAL: Final = 0.5
"""Seconds, at most, between two results of the component."""

MARGIN: Final = 1.2
"""Renewals by which a result is believed for longer than `stuck_after`: the last one and its jitter, and some more."""

MAX_FRAMES: Final = 30
"""Frames of a stack that are shown, the innermost ones."""

START_SECONDS: Final = 1.0
"""How long opening waits, at most, for the component's first result."""


class LoopMonitor:
    """Measures the lag of the event loop, says who blocks it, and fails `livez` when it is stuck for good.

    While it is open, the lag goes to the histogram `otel_health.event_loop.lag`; a block longer than `warn_after` is
    logged once, with the stack of the code that blocks, as seen by a thread of its own; and a component `event-loop`
    on `livez` goes stale when the loop has been stuck for `stuck_after`: whoever reads the state from another thread,
    as a `LivenessServer` does, sees it then. Until then the staleness of other checks, which nothing renews while the
    loop is stuck, does not fail `livez`.

    Args:
        checker: Whose loop is watched; it must be open.
        stuck_after: Seconds after which a stuck loop is held to be dead.
        warn_after: Seconds after which a block is logged.

    Raises:
        ValueError: An option is out of its range.

    Example:
        >>> async with checker, LoopMonitor(checker):
        ...     await serve()
    """

    def __init__(self, checker: Checker, *, stuck_after: float = 30.0, warn_after: float = 1.0) -> None:
        require_seconds("LoopMonitor", "stuck_after", stuck_after)
        require_seconds("LoopMonitor", "warn_after", warn_after)
        if warn_after >= stuck_after:
            raise ValueError(
                f"LoopMonitor: warn_after={warn_after!r} would come no earlier than stuck_after={stuck_after!r}; "
                "make it smaller"
            )
        self.stuck_after = stuck_after
        self.warn_after = warn_after
        self._checker = checker
        self._tick = min(TICK, warn_after / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._beat = 0.0
        """When the loop was last seen to live: seconds on the Checker's clock."""
        self._accused = float("-inf")
        """The beat after which a block was last told of."""
        tell_of_forks(self)

    async def __aenter__(self) -> Self:
        if self._timer is not None:
            raise RuntimeError("this LoopMonitor is already open; open it once")
        require_open(self._checker, "LoopMonitor")
        if EVENT_LOOP in self._checker:
            raise RuntimeError(
                f"this Checker has a check {EVENT_LOOP!r} already; one LoopMonitor is enough, and it is opened before "
                "the LivenessServer, which brings its own where there is none"
            )
        try:
            self._checker.engine.refuse_shared([EVENT_LOOP])
        except ValueError:
            raise RuntimeError(
                "another open Checker of this meter provider has a LoopMonitor already, and their metrics could not be "
                "told apart; one for each event loop is enough, or give this Checker a meter_provider of its own"
            ) from None
        loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._beat = self._checker.now()
        self._timer = loop.call_later(self._tick, self._measure, loop, self._beat + self._tick)
        try:
            await self._register()
            # A daemon that nobody joins: whether it is slow, or dies, costs warnings and nothing else.
            threading.Thread(
                target=self._watch,
                args=(self._stopped, threading.get_ident()),
                name="otel_health-loop-monitor",
                daemon=True,
            ).start()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    async def _register(self) -> None:
        """Add the component, which is fresh for as long as a stuck loop is put up with, and wait for it to pass."""
        ran = asyncio.Event()

        async def event_loop() -> None:
            ran.set()

        interval = min(RENEWAL, self.stuck_after / 4)
        self._checker.add(
            EVENT_LOOP,
            event_loop,
            interval=interval,
            timeout=self.stuck_after + (MARGIN - 2) * interval,
            probes={LIVEZ},
            local=True,
            failure_threshold=1,
            success_threshold=1,
        )
        self._checker.engine.let_speak(EVENT_LOOP)
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await ran.wait()

    def _close(self) -> None:
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if EVENT_LOOP in self._checker:
            self._checker.remove(EVENT_LOOP)

    def forked(self) -> None:
        """Be closed, in a forked child: loop and thread are the parent's."""
        if self._timer is not None:
            self._timer = None
            self._checker.remove(EVENT_LOOP)

    # On the loop.

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = self._checker.now()
        lag = max(now - due, 0.0)
        before, self._beat = self._beat, now
        self._timer = loop.call_later(self._tick, self._measure, loop, now + self._tick)
        self._checker.engine.record_lag(lag)
        if self._accused == before:
            self._checker.note(
                logging.INFO,
                "the event loop goes on after it was blocked for %.1f s",
                lag,
                attributes={names.EVENT_BLOCKED: lag},
            )

    # In the watcher's thread.

    def _watch(self, stopped: threading.Event, loop_thread: int) -> None:
        """Look at the beat; accuse whoever keeps the loop from the next one.

        Only the time that the watcher has lived through counts. Where the whole process stood still (a debugger,
        SIGSTOP, a suspended machine, an extension that keeps the GIL), nobody is accused of it.
        """
        seen, watched, looked_at = self._beat, 0.0, self._checker.now()
        while not stopped.wait(self._tick):
            now, beat = self._checker.now(), self._beat
            watched = watched + min(now - looked_at, 2 * self._tick) if beat == seen else 0.0
            seen, looked_at = beat, now
            if watched >= self.warn_after + self._tick and self._accused != beat:
                self._accuse(beat, watched - self._tick, sys._current_frames().get(loop_thread))  # noqa: SLF001 - its only way.

    def _accuse(self, beat: float, blocked: float, frame: FrameType | None) -> None:
        name, stack = self._checker.engine.check_at(frame), stack_of(frame)
        if self._beat != beat:  # It went on while we looked: the stack may be anybody's.
            return
        self._accused = beat
        attributes: dict[str, object] = {names.EVENT_BLOCKED: blocked, names.EVENT_STACK: stack}
        if name is not None:
            attributes[names.EVENT_COMPONENT] = name
        self._checker.note(
            logging.WARNING,
            "the event loop has been blocked for %.1f s by %s:\n%s",
            blocked,
            f"the check {name!r}" if name is not None else "this code",
            stack,
            attributes=attributes,
        )


def require_open(checker: Checker, who: str) -> None:
    """Refuse a Checker that nothing renews."""
    if not checker.is_open:
        raise RuntimeError(f"{who} needs an open Checker; write `async with checker, {who}(checker, ...):`")


def stack_of(frame: FrameType | None) -> str:
    """Return where a frame is, outermost call first: files, lines and functions; no values and no code."""
    calls: list[str] = []
    while frame is not None and len(calls) < MAX_FRAMES:
        code = frame.f_code
        calls.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}')
        frame = frame.f_back
    return "\n".join(reversed(calls))
