"""What makes the runs: begins them in batches, ends them by their deadlines, counts what is left behind."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

from otel_health.forks import leave
from otel_health.report import ErrorType
from otel_health.run import STALL_SECONDS, Ended, Run, Slot
from otel_health.threads import STUCK_AFTER, Threads

BATCH_RUNS: Final = 128
BATCH_SECONDS: Final = 0.002
"""At most so many runs, for so long, are begun or ended before the loop gets its turn."""

CLOSE_SECONDS: Final = 0.1
"""How long closing waits for cancelled runs before their coroutines are closed by force."""

WORKING_THREADS: Final = 56
WORKING_THREADS_LOCAL: Final = 8
TOTAL_THREADS: Final = 480
TOTAL_THREADS_LOCAL: Final = 32
"""Together 64 that work and 512 in all. Local checks have their own, so that no dependency can starve liveness."""


class Runner:
    """Makes runs on one event loop.

    Args:
        clock: Monotonic seconds.
        context: What each run starts with a copy of; never the requester's.
    """

    def __init__(self, clock: Callable[[], float], context: Context) -> None:
        self.clock = clock
        self.context = context
        self.live: set[Run] = set()
        self.blocked = 0.0
        self.accounted_until = float("-inf")
        self.resumed_at = float("-inf")
        self.loop: asyncio.AbstractEventLoop
        self.watch: Callable[[Run], None]
        """Has a run's deadline kept."""
        self._threads = Threads(WORKING_THREADS, TOTAL_THREADS)
        self._local_threads = Threads(WORKING_THREADS_LOCAL, TOTAL_THREADS_LOCAL)
        self._relieving = False
        self._backlog: deque[Run] = deque()
        self._begun = 0
        self._began_at = 0.0
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this loop from now on; what the loop before it left unfinished is dropped."""
        self.loop = loop
        self.watch = _Deadlines(self).watch
        self._relieving = self._closed = False
        self._backlog.clear()
        self._begun = 0
        for run in list(self.live):
            run.ended = run.slot.run = None
            if run.job is None:
                run.release()
            elif run.slot.abandoned is None:
                run.slot.abandoned = run

    def forked(self) -> None:
        """Leave all that is under way to the parent, in a forked child."""
        for run in [*self.live, *self._backlog]:
            run.ended = None
            leave(run)
        self.live.clear()
        self._backlog.clear()

    def start(self, slot: Slot, timeout: float, ended: Ended) -> None:
        """Begin a run as soon as the loop can bear it; `ended` is called on the loop, once."""
        run = Run(slot, timeout, ended)
        if self._begun == 0:
            self._began_at = self.clock()
            self.loop.call_soon(self._breathe)
        if self._backlog or self._begun >= BATCH_RUNS or self.clock() - self._began_at > BATCH_SECONDS:
            self._backlog.append(run)
        else:
            self._begun += 1
            self.begin(run)

    def begin(self, run: Run) -> None:
        """Begin a run now, unless it was dropped meanwhile or an earlier one is still alive."""
        slot = run.slot
        if self._closed:
            run.cancel()
        if run.ended is None:
            return
        if slot.abandoned is not None:
            self._follow(slot.abandoned, run)
            return
        slot.run = run
        if slot.is_async:
            run.drive()
            return
        self.live.add(run)
        threads = self.threads(slot)
        run.deadline = self.clock() + run.timeout
        run.job = threads.submit(run.call)
        self.watch(run)
        if threads.waiting and not self._relieving:
            self._relieving = True
            self.loop.call_later(STUCK_AFTER, self._relieve)

    def woke(self, due: float, now: float) -> None:
        """The loop comes at `now` to what was due at `due`: if that is late, and by nothing of ours, remember it."""
        if now - max(due, self.accounted_until) > STALL_SECONDS:
            self.accounted_until = self.resumed_at = now

    def threads(self, slot: Slot) -> Threads:
        """The threads that serve this slot."""
        return self._local_threads if slot.local else self._threads

    async def close(self) -> None:
        """End everything that lives, as far as Python lets anyone; nothing more begins until the next `attach`."""
        self._closed = True
        while self._backlog:
            self._backlog.popleft().cancel()
        try:
            for run in list(self.live):
                run.cancel()
            await self._ending()
        finally:
            for run in list(self.live):
                run.stop()
            self._threads.close()
            self._local_threads.close()
        await self._ending()

    async def _ending(self) -> None:
        tasks = [run.task for run in self.live if run.task is not None and not run.task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    def _follow(self, earlier: Run, run: Run) -> None:
        """Have a run follow one that is still alive: it takes over what that one brings, or fails as hung."""
        now = self.clock()
        if earlier.job is None or earlier.deadline <= now:
            run.settle(now, ErrorType.HUNG)
            return
        # It was dropped before its time was up, and nobody has asked its thread to end.
        run.started = earlier.started
        run.deadline = min(earlier.deadline, now + run.timeout)
        run.slot.run = earlier.heir = run
        self.watch(run)

    def _breathe(self) -> None:
        """The loop has had its turn: the next batch may begin."""
        self._begun = 0
        if not self._backlog:
            return
        self._began_at = self.clock()
        self.loop.call_soon(self._breathe)
        while self._backlog and self._begun < BATCH_RUNS and self.clock() - self._began_at <= BATCH_SECONDS:
            self._begun += 1
            self.begin(self._backlog.popleft())

    def _relieve(self) -> None:
        waiting = [threads.relieve() for threads in (self._threads, self._local_threads)]
        self._relieving = any(waiting)
        if self._relieving:
            self.loop.call_later(STUCK_AFTER, self._relieve)


class _Deadlines:
    """One timer for each distinct timeout: runs of equal timeouts fall due in the order in which they began."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._queues: dict[float, deque[Run]] = {}

    def watch(self, run: Run) -> None:
        queue = self._queues.get(run.timeout)
        if queue is None:
            queue = self._queues[run.timeout] = deque()
            self._arm(run)
        while queue and queue[0].ended is None:
            queue.popleft()
        queue.append(run)

    def _arm(self, first: Run) -> None:
        now = self._runner.clock()
        delay = max(first.deadline - now, 0.0)
        self._runner.loop.call_later(delay, self._sweep, first.timeout, now + delay)

    def _sweep(self, timeout: float, due: float) -> None:
        queue = self._queues[timeout]
        begun = self._runner.clock()
        self._runner.woke(due, begun)
        try:
            while queue and (queue[0].ended is None or queue[0].deadline <= begun):
                self._expire(queue.popleft())
                if self._runner.clock() - begun > BATCH_SECONDS:
                    break
        finally:
            # What the sweep itself took is no block by others.
            self._runner.accounted_until = max(self._runner.accounted_until, self._runner.clock())
            if queue:
                self._arm(queue[0])
            else:
                del self._queues[timeout]

    def _expire(self, run: Run) -> None:
        now = self._runner.clock()
        if not run.expire(now):
            self._runner.loop.call_later(max(run.deadline - now, 0.0), self._expire, run)
