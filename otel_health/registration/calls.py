"""Calls to a registry: each ends by its deadline, whatever it does, and leaves nothing in anybody's traces."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from otel_health.compose import set_once
from otel_health.execution import Runner
from otel_health.forks import leave, tell_of_forks
from otel_health.quiet import quiet_context
from otel_health.report import ErrorType
from otel_health.run import Run, Slot


class Outcome(NamedTuple):
    """What came of a call."""

    value: Any
    error: BaseException | None
    """Why there is no value."""


class Calls:
    """Makes calls as the Checker makes the runs of a check.

    So a name resolution that hangs holds one thread, and no later call is begun while it does.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = Runner(clock, quiet_context())
        self._slot: Slot | None = None
        self._run: Run | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        tell_of_forks(self)

    async def make(self, call: Callable[[], Awaitable[Any]], timeout: float) -> Outcome:
        """Make a call, and return what came of it within so many seconds."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._runner.attach(loop)
            self._slot, self._loop = None, loop
        # Its own, so that calls that overlap do not take each other's function; what a former one left stays counted.
        slot = self._slot = Slot(self._runner, call, local=False).succeed(self._slot)
        slot.is_async = True
        done: asyncio.Future[Run] = loop.create_future()
        run = self._run = Run(slot, timeout, lambda ended: set_once(done, ended))
        self._runner.begin(run)
        try:
            await done
        finally:
            run.cancel()
        return Outcome(run.value, run.exception or _unended(run))

    def drop(self) -> None:
        """End the call that is being made, if any, without an answer."""
        if self._run is not None:
            self._run.cancel()

    async def close(self) -> None:
        """End what still runs, as far as Python lets anyone."""
        if self._loop is not None:
            await self._runner.close()
            self._loop = None

    def forked(self) -> None:
        """Have nothing under way, in a forked child."""
        self._runner.forked()
        if self._loop is not None:
            leave((self._loop, self._slot, self._run))
        self._loop = self._slot = self._run = None


def _unended(run: Run) -> TimeoutError | None:
    if run.reason is ErrorType.HUNG:
        return TimeoutError("an earlier call has not ended")
    if run.reason is not None:
        return TimeoutError(f"no answer within {run.timeout:.3g} s")
    return TimeoutError("given up") if run.withdrawn else None
