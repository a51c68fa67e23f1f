"""One run and its deadline: whatever a check function does, it yields an ending in time."""

import asyncio
import inspect
import signal
import sys
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final

from otel_health.check import CheckFunc, is_async
from otel_health.compose import parent
from otel_health.report import ErrorType
from otel_health.threads import STUCK_AFTER, Job, Threads

BATCH_RUNS: Final = 256
BATCH_SECONDS: Final = 0.002
"""At most so many runs, for so long, begin before the loop gets its turn."""

STALL_SECONDS: Final = 0.02
"""A synchronous slice longer than this is a block of the loop, and is laid to the run whose slice it was."""

GRACE_SECONDS: Final = 0.1
"""What a run is given when the loop was blocked by something that is none of ours."""

CHILD_SHARE: Final = 0.9
"""The part of its parent's remaining time that a child gets, so that the parent can still say who was late."""

CLOSE_SECONDS: Final = 0.1
"""How long closing waits for cancelled runs before their coroutines are closed by force."""

WORKING_THREADS: Final = 56
WORKING_THREADS_LOCAL: Final = 8
TOTAL_THREADS: Final = 480
TOTAL_THREADS_LOCAL: Final = 32
"""Together 64 that work and 512 in all. Local checks have their own, so that no dependency can starve liveness."""

_EAGER: Final = sys.version_info >= (3, 12)

Ended = Callable[["Run"], None]


class Slot:
    """The place in which the runs of one check function are made: one at a time.

    The children of a composite have slots of their own below their parent's, so that a hung child is counted, and
    not started again, without condemning its parent.
    """

    __slots__ = ("_children", "abandoned", "context", "function", "is_async", "local", "run", "runner")

    def __init__(self, runner: "Runner", function: CheckFunc, *, local: bool) -> None:
        self.runner = runner
        self.function = function
        self.is_async = is_async(function)
        self.local = local
        self.context = runner.context.copy()
        self.context.run(parent.set, self)
        self.run: Run | None = None
        self.abandoned: Run | None = None
        self._children: dict[str, Slot] = {}

    def start_child(self, name: str, function: CheckFunc, ended: Ended) -> "Run":
        """Begin a run of a composite's child, within what is left of the parent's time."""
        child = self._children.get(name)
        if child is None or child.function is not function:
            child = self._children[name] = Slot(self.runner, function, local=self.local)
        remaining = self.run.deadline - self.runner.clock() if self.run is not None else 0.0
        run = Run(child, max(remaining, 0.0) * CHILD_SHARE, ended)
        # Not at once: a child's block of the loop would be laid to the parent as well.
        self.runner.loop.call_soon(self.runner.begin, run)
        return run

    @property
    def abandoned_runs(self) -> int:
        """How many runs outlived their deadline, here and in the children, and are still alive."""
        own = 0 if self.abandoned is None else 1
        return own + sum(child.abandoned_runs for child in list(self._children.values()))


class Run:
    """One run of a check function, from its start to its verdict, and beyond if it does not end."""

    __slots__ = (
        "_blocked",
        "_coroutine",
        "_lost",
        "_mark",
        "_our_cancels",
        "deadline",
        "duration",
        "ended",
        "exception",
        "finished",
        "job",
        "reason",
        "returned",
        "slot",
        "started",
        "task",
        "timeout",
        "value",
        "withdrawn",
    )  # fmt: skip

    def __init__(self, slot: Slot, timeout: float, ended: Ended) -> None:
        self.slot = slot
        self.timeout = timeout
        self.ended: Ended | None = ended
        """Called on the loop at the verdict, once; None afterwards."""
        self.value: object = None
        self.exception: BaseException | None = None
        self.reason: ErrorType | None = None
        """`timeout`, `hung` or `saturated`, where the check function itself had no say."""
        self.withdrawn = False
        """There is no verdict: the run was cancelled from outside."""
        self.started: float | None = None
        self.deadline = 0.0
        self.finished = 0.0
        self.duration: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.job: Job | None = None
        self.returned = False
        """A thread has brought the ending, and the loop will hear of it."""
        self._coroutine: Coroutine[Any, Any, object] | None = None
        self._our_cancels = 0
        self._mark = 0.0
        self._blocked = 0.0
        self._lost = 0.0

    def cancel(self) -> None:
        """Drop the run: nobody wants its verdict any more. What cannot be ended is abandoned."""
        if self.ended is not None:
            self.withdrawn = True
            self.settle(self.slot.runner.clock(), None)
            self.let_go()

    def settle(self, at: float, reason: ErrorType | None) -> None:
        """Give the verdict; only the first counts."""
        ended, self.ended = self.ended, None
        if ended is None:
            return
        self.reason = reason
        self.finished = at
        if self.started is not None and reason is not ErrorType.SATURATED:
            self.duration = max(at - self.started - self._lost, 0.0)
        self.slot.run = None
        ended(self)

    def let_go(self) -> None:
        """Ask what still runs to end; until it does, it is abandoned."""
        runner = self.slot.runner
        if self.job is not None and not self.returned and not runner.threads(self.slot).withdraw(self.job):
            runner.threads(self.slot).give_up(self.job)
            self.slot.abandoned = self
        if self.task is not None and not self.task.done():
            self._our_cancels += 1
            self.task.cancel()
            self.slot.abandoned = self

    def expire(self, now: float) -> bool:
        """Give the verdict that the deadline brings; False if the run has more time."""
        if self.ended is None or self.returned:
            return True
        if self.job is not None:
            if self.started is None and self.slot.runner.threads(self.slot).withdraw(self.job):
                self.settle(now, ErrorType.SATURATED)
                return True
            self.deadline = (self.started or now) + self.timeout
        else:
            self._credit(now)
        if now < self.deadline:
            return False
        self.settle(now, ErrorType.TIMEOUT)
        self.let_go()
        return True

    def release(self) -> None:
        """Nothing of this run is alive any more."""
        if self.slot.abandoned is self:
            self.slot.abandoned = None
        self.slot.runner.live.discard(self)

    # On the loop.

    def drive(self, coroutine: Coroutine[Any, Any, object] | None = None) -> None:
        """Run the check function, or the coroutine that it returned from a thread, as a task."""
        self._coroutine = coroutine
        context, loop = self.slot.context.copy(), self.slot.runner.loop
        if _EAGER:
            task = asyncio.Task(self._drive(), loop=loop, name="otel_health", context=context, eager_start=True)  # type: ignore[call-arg,unused-ignore]
        else:
            task = asyncio.Task(self._drive(), loop=loop, name="otel_health", context=context)
        self.task = task
        if task.done():
            self.release()
        else:
            task.add_done_callback(self._task_done)

    async def _drive(self) -> None:
        runner = self.slot.runner
        if self.started is None:
            self.started = runner.clock()
            self.deadline = self.started + self.timeout
        self._mark = runner.blocked
        try:
            self.value = await self._sliced()
        except asyncio.CancelledError as cancelled:
            if self._cancelled_by_others:
                raise
            self.exception = cancelled
        except BaseException as raised:  # noqa: BLE001 - the runner's boundary: every ending is a result.
            self.exception = raised
        now = runner.clock()
        if self.ended is not None:
            if now > self.deadline:
                self._credit(now)
            self.settle(now, ErrorType.TIMEOUT if now > self.deadline else None)
        if isinstance(self.exception, KeyboardInterrupt) and _pressed(self.exception):
            raise self.exception

    @types.coroutine
    def _sliced(self) -> Generator[Any, None, object]:
        """Drive the check's coroutine slice by slice, so that a block of the loop is laid to the one who blocked it."""
        runner = self.slot.runner
        clock = runner.clock
        begun = clock()
        if self._coroutine is None:
            made: object = self.slot.function()
            self._coroutine = made if inspect.iscoroutine(made) else _awaited(made)  # type: ignore[arg-type]
        coroutine = self._coroutine
        thrown: BaseException | None = None
        watched = False
        while True:
            try:
                suspended = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                took = clock() - begun
                if took > STALL_SECONDS:
                    self._blocked += took
                    runner.blocked += took
                    runner.accounted_until = begun + took
            if not watched:
                watched = True
                runner.deadlines.watch(self)
            try:
                yield suspended
                thrown = None
            except BaseException as exception:
                if self.ended is None and (self._cancelled_by_others or isinstance(exception, GeneratorExit)):
                    _close(coroutine)
                    raise
                thrown = exception
            begun = clock()

    @property
    def _cancelled_by_others(self) -> bool:
        task = self.task or asyncio.current_task()
        return task is not None and task.cancelling() > self._our_cancels

    def _credit(self, now: float) -> None:
        """Give back the time that the loop was blocked by others."""
        runner = self.slot.runner
        lost = runner.blocked - self._mark - self._blocked
        if lost > 0.0:
            self._mark += lost
            self._lost += lost
            self.deadline += lost
        if now - max(self.deadline, runner.accounted_until) > STALL_SECONDS:
            # None of ours blocked it, so what this check waits for may be ready by now: let it be heard.
            runner.accounted_until = now
            self.deadline = now + GRACE_SECONDS

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self.ended is not None:
            self.withdrawn = True
            self.settle(self.slot.runner.clock(), None)
        if not task.cancelled():
            task.exception()
        self.release()

    # In a thread.

    def call(self) -> None:
        """Make the call and hand to the loop what comes of it."""
        runner = self.slot.runner
        self.started = runner.clock()
        value: object = None
        exception: BaseException | None = None
        try:
            value = self.slot.context.copy().run(self.slot.function)
        except BaseException as raised:  # noqa: BLE001 - the runner's boundary, as in _drive.
            exception = raised
        finished = runner.clock()
        self.returned = True
        try:
            runner.loop.call_soon_threadsafe(self._called, value, exception, finished)
        except RuntimeError:  # The loop is closed: nobody waits for this any more.
            self.release()

    def _called(self, value: object, exception: BaseException | None, finished: float) -> None:
        self.returned = False
        self.job = None
        assert self.started is not None
        self.deadline = self.started + self.timeout
        if self.ended is None:
            if inspect.iscoroutine(value):
                value.close()
        elif exception is None and not isinstance(value, bool | dict | None) and inspect.isawaitable(value):
            self.drive(value if inspect.iscoroutine(value) else _awaited(value))
            return
        self.value, self.exception = value, exception
        self.settle(finished, ErrorType.TIMEOUT if finished > self.deadline else None)
        self.release()


class Runner:
    """Makes runs on one event loop: begins them in batches, ends them by their deadlines, counts what is left.

    Args:
        clock: Monotonic seconds.
        context: What each run starts with a copy of; never the requester's.
    """

    def __init__(self, clock: Callable[[], float], context: Context) -> None:
        self.clock = clock
        self.context = context
        self.live: set[Run] = set()
        self.blocked = 0.0
        """Seconds for which checks of ours have blocked the loop, ever."""
        self.accounted_until = float("-inf")
        self._threads = Threads(WORKING_THREADS, TOTAL_THREADS)
        self._local_threads = Threads(WORKING_THREADS_LOCAL, TOTAL_THREADS_LOCAL)
        self.loop: asyncio.AbstractEventLoop
        self.deadlines: Deadlines

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this loop from now on; what the loop before it left unfinished is forgotten."""
        self.loop = loop
        self.deadlines = Deadlines(self)
        self._backlog: deque[Run] = deque()
        self._begun = 0
        self._began_at = 0.0
        self._relieving = False
        for run in list(self.live):
            run.ended = run.slot.run = None
            if run.job is None:
                run.release()
            else:
                run.let_go()

    def threads(self, slot: Slot) -> Threads:
        """The threads that serve this slot."""
        return self._local_threads if slot.local else self._threads

    def start(self, slot: Slot, timeout: float, ended: Ended) -> None:
        """Begin a run as soon as the loop can bear it."""
        run = Run(slot, timeout, ended)
        if self._begun == 0:
            self._began_at = self.clock()
            self.loop.call_soon(self._breathe)
        if self._begun >= BATCH_RUNS or self.clock() - self._began_at > BATCH_SECONDS:
            self._backlog.append(run)
        else:
            self._begun += 1
            self.begin(run)

    def begin(self, run: Run) -> None:
        """Begin a run now, unless it was dropped meanwhile or an earlier one is still alive."""
        slot = run.slot
        if run.ended is None:
            return
        if slot.abandoned is not None:
            run.settle(self.clock(), ErrorType.HUNG)
            return
        slot.run = run
        self.live.add(run)
        if slot.is_async:
            run.drive()
            return
        threads = self.threads(slot)
        run.deadline = self.clock() + run.timeout
        run.job = threads.submit(run.call)
        self.deadlines.watch(run)
        if threads.waiting and not self._relieving:
            self._relieving = True
            self.loop.call_later(STUCK_AFTER, self._relieve)

    async def close(self) -> None:
        """End everything that lives, as far as Python lets anyone."""
        self._backlog.clear()
        for run in list(self.live):
            run.cancel()
        await _ended(self.live, CLOSE_SECONDS)
        for run in list(self.live):
            if run.task is not None:
                run.task.cancel()
        await _ended(self.live, CLOSE_SECONDS)
        self._threads.close()
        self._local_threads.close()

    def _breathe(self) -> None:
        self._begun = 0
        backlog = self._backlog
        if not backlog:
            return
        self._began_at = self.clock()
        self.loop.call_soon(self._breathe)
        while backlog and self._begun < BATCH_RUNS and self.clock() - self._began_at <= BATCH_SECONDS:
            self._begun += 1
            self.begin(backlog.popleft())

    def _relieve(self) -> None:
        waiting = [threads.relieve() for threads in (self._threads, self._local_threads)]
        self._relieving = any(waiting)
        if self._relieving:
            self.loop.call_later(STUCK_AFTER, self._relieve)


class Deadlines:
    """One timer for each distinct timeout: runs of equal timeouts fall due in the order in which they began."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._queues: dict[float, deque[Run]] = {}

    def watch(self, run: Run) -> None:
        """Have the run's deadline kept."""
        queue = self._queues.get(run.timeout)
        if queue is None:
            queue = self._queues[run.timeout] = deque()
            self._arm(run.timeout, run)
        while queue and queue[0].ended is None:
            queue.popleft()
        queue.append(run)

    def _arm(self, timeout: float, first: Run) -> None:
        delay = max(first.deadline - self._runner.clock(), 0.0)
        self._runner.loop.call_later(delay, self._sweep, timeout)

    def _sweep(self, timeout: float) -> None:
        queue = self._queues[timeout]
        now = self._runner.clock()
        while queue:
            run = queue[0]
            if run.ended is not None and run.deadline > now:
                self._arm(timeout, run)
                return
            queue.popleft()
            self._expire(run)
        del self._queues[timeout]

    def _expire(self, run: Run) -> None:
        now = self._runner.clock()
        if not run.expire(now):
            self._runner.loop.call_later(max(run.deadline - now, 0.0), self._expire, run)


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _close(coroutine: Coroutine[Any, Any, object]) -> None:
    try:
        coroutine.close()
    except BaseException:  # noqa: BLE001 - it refuses to end; it is simply never resumed again.
        return


async def _ended(live: set[Run], timeout: float) -> None:
    tasks = [run.task for run in live if run.task is not None and not run.task.done()]
    if tasks:
        await asyncio.wait(tasks, timeout=timeout)


def _pressed(interrupt: KeyboardInterrupt) -> bool:
    """Whether the interrupt came from the process's SIGINT handler, not from the check itself."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    traceback = interrupt.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return traceback is not None and traceback.tb_frame.f_code is code
