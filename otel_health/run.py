"""One run of a check function: driven slice by slice, or called in a thread, it has an ending in any case."""

import asyncio
import inspect
import signal
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from dis import opmap
from functools import partial
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, is_async
from otel_health.compose import parent
from otel_health.report import ErrorType
from otel_health.threads import Job, Threads, call_on

STALL_SECONDS: Final = 0.02
"""A synchronous slice longer than this is a block of the loop, and is laid to the run whose slice it was."""

GRACE_SECONDS: Final = 0.1
"""What a run is given, once, when the loop was blocked by something that is none of ours."""

CHILD_MARGIN: Final = 0.05
"""Seconds (at most a tenth) by which a child's time is shorter than its parent's, which so can say who was late."""

_EAGER: Final = sys.version_info >= (3, 12)

Ended = Callable[["Run"], None]


class Host(Protocol):
    """What makes the runs, as they see it."""

    clock: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    context: Context
    live: set["Run"]
    blocked: float
    """Seconds for which checks of ours have blocked the loop, ever."""
    accounted_until: float
    """Up to when it is known who blocked the loop."""
    resumed_at: float
    """When the loop last came back from a block that was none of ours."""

    def woke(self, due: float, now: float) -> None: ...
    def begin(self, run: "Run") -> None: ...
    @property
    def watch(self) -> "Callable[[Run], None]": ...
    def threads(self, slot: "Slot") -> Threads: ...


class Slot:
    """The place in which the runs of one check function are made: one at a time.

    The children of a composite have slots of their own below their parent's, so that a hung child is counted, and
    not started again, without condemning its parent.
    """

    __slots__ = ("_children", "abandoned", "context", "function", "host", "is_async", "local", "run")

    def __init__(self, host: Host, function: CheckFunc, *, local: bool) -> None:
        self.host = host
        self.function = function
        self.is_async = is_async(function)
        self.local = local
        self.context = host.context.copy()
        self.context.run(parent.set, self)
        self.run: Run | None = None
        self.abandoned: Run | None = None
        """A run without a waiter that is still alive."""
        self._children: dict[str, Slot] = {}

    def start_child(self, name: str, function: CheckFunc, ended: Ended, share: float = 1.0) -> "Run":
        """Begin a run of a composite's child, within this share of what is left of the parent's time."""
        child = self._children.get(name)
        if child is None or child.function is not function:
            child = self._children[name] = Slot(self.host, function, local=self.local).succeed(child)
        remaining = max(self.run.deadline - self.host.clock(), 0.0) if self.run is not None else 0.0
        run = Run(child, (remaining - min(CHILD_MARGIN, remaining / 10)) * share, ended)
        # Not at once: a child's block of the loop would be laid to the parent as well.
        self.host.loop.call_soon(self.host.begin, run)
        return run

    @property
    def abandoned_runs(self) -> int:
        """How many runs outlived their deadline, here and in the children, and are still alive."""
        own = 0 if self.abandoned is None else 1
        if not self._children:
            return own
        return own + sum(child.abandoned_runs for child in list(self._children.values()))

    @property
    def is_held(self) -> bool:
        """Whether a run is under way here, or left behind alive."""
        return self.run is not None or self.abandoned_runs > 0

    def forked(self) -> None:
        """Forget the runs, which are the parent's."""
        self.run = self.abandoned = None
        for child in self._children.values():
            child.forked()

    def path_to(self, slot: "Slot") -> tuple[str, ...] | None:
        """The names of the children that lead from here to another slot; None if it is not below this one."""
        if slot is self:
            return ()
        for name, child in list(self._children.items()):
            path = child.path_to(slot)
            if path is not None:
                return (name, *path)
        return None

    def succeed(self, other: "Slot | None") -> "Slot":
        """Take over what another function of the same name has left behind, so that it stays counted."""
        if other is not None:
            self.abandoned, self._children = other.abandoned, other._children  # noqa: SLF001 - its own kind.
            if self.abandoned is not None:
                self.abandoned.slot = self
        return self


class Run:
    """One run, from its start to its verdict, and beyond if it does not end.

    `value`, `exception`, `reason`, `duration`, `blocked` and `timeout` are its ending, as `otel_health.check.judge`
    reads it.
    """

    # Defaults stand on the class: a run is made for every check of every round, and most of them never need more.
    value: object = None
    exception: BaseException | None = None
    reason: ErrorType | None = None
    """`timeout`, `hung` or `saturated`, where the check function itself had no say."""
    duration: float | None = None
    blocked = 0.0
    """Seconds for which its own slices have blocked the loop."""
    withdrawn = False
    """There is no verdict: the run was dropped, or cancelled from outside."""
    started: float | None = None
    deadline = 0.0
    finished = 0.0
    task: asyncio.Task[None] | None = None
    job: Job | None = None
    returned = False
    """A thread has brought the ending, and the loop will hear of it."""
    heir: "Run | None" = None
    """The next run, if it was asked for while this one, dropped before its time was up, still held a thread."""
    _stopped = False
    _foreign = False
    """Somebody else has asked the task to end."""
    _cancels = 0
    """How many cancellations of the task are known, and were not asked for by somebody else."""
    _mark = 0.0
    _lost = 0.0
    _graced = False

    def __init__(self, slot: Slot, timeout: float, ended: Ended) -> None:
        self.slot = slot
        self.timeout = timeout
        self.ended: Ended | None = ended
        """Called on the loop at the verdict, once; None afterwards."""

    # Its verdict.

    def settle(self, at: float, reason: ErrorType | None) -> None:
        """Give the verdict; only the first counts."""
        ended, self.ended = self.ended, None
        if ended is None:
            return
        self.reason = reason
        self.finished = at
        if self.started is not None and reason is not ErrorType.SATURATED:
            duration = at - self.started - self._lost
            self.duration = duration if duration > 0.0 else 0.0
        self.slot.run = None
        ended(self)

    def expire(self, now: float) -> bool:
        """Give the verdict that the deadline brings; False if the run has more time."""
        if self.ended is None or self.returned:
            return True
        if self.job is not None:
            if self.started is None and self.slot.host.threads(self.slot).withdraw(self.job):
                self.settle(now, ErrorType.SATURATED)
                self.release()
                return True
            self.deadline = (self.started or now) + self.timeout
        elif self.task is not None:
            self._credit(now)
        if now < self.deadline:
            return False
        self.settle(now, ErrorType.TIMEOUT)
        self._let_go()
        return True

    def cancel(self) -> None:
        """Drop the run: nobody wants its verdict any more. What cannot be ended is abandoned."""
        if self.ended is not None:
            self.withdrawn = True
            self.settle(self.slot.host.clock(), None)
            self._let_go()

    def stop(self) -> None:
        """Drop the run, and drive its coroutine no further, whatever it does."""
        self.cancel()
        self._stopped = True
        if self.task is not None:
            self.task.cancel()

    def release(self) -> None:
        """Nothing of this run is alive any more."""
        if self.slot.abandoned is self:
            self.slot.abandoned = None
        self.slot.host.live.discard(self)

    def _let_go(self) -> None:
        """Ask what still runs to end; until it does, it is abandoned."""
        if self.job is not None and not self.returned:
            threads = self.slot.host.threads(self.slot)
            if threads.withdraw(self.job):
                self.release()
            else:
                threads.give_up(self.job)
                self.slot.abandoned = self
        if self.task is not None and not self.task.done():
            self._cancels += 1
            self.task.cancel()
            self.slot.abandoned = self

    # On the loop.

    def drive(self, coroutine: Coroutine[Any, Any, object] | None = None) -> None:
        """Run the check function, or the coroutine that it returned from a thread, as a task."""
        host = self.slot.host
        driving = self._drive(coroutine)
        if _EAGER:
            task = asyncio.Task(
                driving, loop=host.loop, name="otel_health", context=self.slot.context.copy(), eager_start=True
            )  # type: ignore[call-arg,unused-ignore]
        else:
            # Up to its first turn, where even a cancellation that comes before the task has begun will find it.
            driving.send(None)
            task = asyncio.Task(driving, loop=host.loop, name="otel_health", context=self.slot.context.copy())
        if not task.done():
            self.task = task
            host.live.add(self)

    async def _drive(self, coroutine: Coroutine[Any, Any, object] | None) -> None:
        if not _EAGER:
            try:
                await _turn()  # type: ignore[misc, unused-ignore]
            except BaseException as ended:
                self._withdraw(ended)
                raise
        host = self.slot.host
        clock = host.clock
        begun = clock()
        if self.started is None:
            self.started = begun
            self.deadline = begun + self.timeout
        self._mark = host.blocked
        try:
            if coroutine is None:
                made: object = self.slot.function()
                coroutine = made if isinstance(made, types.CoroutineType) else awaited(made)  # type: ignore[arg-type]
            # The first slice is the only one of most checks, and needs nothing of what the later ones do.
            suspended = coroutine.send(None)
        except StopIteration as stop:
            self.value = stop.value
        except BaseException as raised:  # noqa: BLE001 - the runner's boundary: every ending is a result.
            self.exception = raised
        else:
            now = clock()
            if now - begun > STALL_SECONDS:
                self._account(begun, now)
            try:
                self.value = await self._sliced(coroutine, suspended)  # type: ignore[misc, unused-ignore]
            except (asyncio.CancelledError, GeneratorExit) as ended:
                if self._foreign and (isinstance(ended, GeneratorExit) or _cancelling(self.task) > 0):
                    self._withdraw(ended)
                    raise
                self.exception = ended
            except BaseException as raised:  # noqa: BLE001 - as above.
                self.exception = raised
            begun = clock()
        now = clock()
        if now - begun > STALL_SECONDS:
            self._account(begun, now)
        interrupt = self.exception
        if self.ended is not None:
            if now > self.deadline:
                self._credit(now)
            self.settle(now, ErrorType.TIMEOUT if now > self.deadline else None)
        if self.task is not None:
            self.release()
        if isinstance(interrupt, KeyboardInterrupt) and pressed(interrupt):
            raise interrupt

    @types.coroutine
    def _sliced(self, coroutine: Coroutine[Any, Any, object], suspended: object) -> Generator[Any, None, object]:
        """Drive the check's coroutine slice by slice, so that a block of the loop is laid to the one who blocked it."""
        host = self.slot.host
        clock = host.clock
        task = asyncio.current_task()
        assert task is not None
        host.watch(self)
        while True:
            # What the check asked of its own task in the slice before is its own affair.
            self._cancels = task.cancelling()
            thrown: BaseException | None = None
            try:
                yield suspended
            except BaseException as exception:
                if task.cancelling() > self._cancels:
                    self._foreign = True
                closed = self._stopped or isinstance(exception, GeneratorExit)
                if closed or (self.ended is None and self._foreign):
                    self._foreign = True
                    close(coroutine)
                    raise
                thrown = exception
            begun = clock()
            try:
                suspended = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                now = clock()
                if now - begun > STALL_SECONDS:
                    self._account(begun, now)

    def _account(self, begun: float, now: float) -> None:
        """Lay a slice that blocked the loop to this run."""
        host = self.slot.host
        self.blocked += now - begun
        host.blocked += now - begun
        host.accounted_until = now

    def _credit(self, now: float) -> None:
        """Give back the time for which the loop was blocked by others."""
        host = self.slot.host
        lost = host.blocked - self._mark - self.blocked
        if lost > 0.0:
            self._mark += lost
            self._lost += lost
            self.deadline += lost
        host.woke(self.deadline, now)
        if self.deadline <= host.resumed_at and not self._graced:
            # None of ours blocked it, and what this check waits for may be ready by now: let it be heard, once.
            self._graced = True
            self.deadline = host.resumed_at + GRACE_SECONDS

    def _withdraw(self, ended: BaseException) -> None:
        """There will be no verdict, and nothing is alive."""
        self.withdrawn = True
        # Whoever concludes something from its children may not take this one for one that has passed.
        self.exception = ended
        self.settle(self.slot.host.clock(), None)
        self.release()

    # In a thread.

    def call(self) -> None:
        """Make the call, and hand to the loop what comes of it."""
        host = self.slot.host
        self.started = host.clock()
        value: object = None
        exception: BaseException | None = None
        try:
            value = self.slot.context.copy().run(self.slot.function)
        except BaseException as raised:  # noqa: BLE001 - the runner's boundary, as in _drive.
            exception = raised
        finished = host.clock()
        self.returned = True
        if not call_on(host.loop, self.called, value, exception, finished):
            self.release()

    def called(self, value: object, exception: BaseException | None, finished: float) -> None:
        """What the thread has brought, back on the loop."""
        self.job = None
        self.returned = False
        assert self.started is not None
        self.deadline = self.started + self.timeout
        self.release()
        if self.heir is not None and self.heir.ended is not None:
            self.heir.started = self.started
            self.heir.called(value, exception, finished)
            return
        coroutine = None
        try:
            if exception is None and not isinstance(value, bool | dict | None) and inspect.isawaitable(value):
                coroutine = value if inspect.iscoroutine(value) else awaited(value)
        except BaseException as raised:  # noqa: BLE001 - an object that breaks at a look is no result.
            exception = raised
        if coroutine is None:
            self.value, self.exception = value, exception
            self.settle(finished, ErrorType.TIMEOUT if finished > self.deadline else None)
        elif self.ended is None:
            close(coroutine)
        else:
            self.drive(coroutine)


def run_at(frame: types.FrameType | None) -> Run | None:
    """Return the run whose check's code this frame executes, looking outwards; None if it is no check's code.

    What is called from a run's verdict (a listener, a meter provider) is not the check's.
    """
    while frame is not None and frame.f_code is not Run.settle.__code__:
        if frame.f_code is Run._drive.__code__:  # noqa: SLF001 - the frame below which checks run.
            run = frame.f_locals.get("self")
            return run if isinstance(run, Run) else None
        frame = frame.f_back
    return None


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield


async def awaited(value: Awaitable[object]) -> object:
    """Make a coroutine of any awaitable."""
    return await value


def _cancelling(task: asyncio.Task[Any] | None) -> int:
    return 0 if task is None else task.cancelling()


def close(coroutine: Coroutine[Any, Any, object]) -> None:
    """End a coroutine that is not to be driven any further, whatever it does."""
    try:
        coroutine.close()
    except BaseException:  # noqa: BLE001 - it refuses to end; it is simply never resumed again.
        return


def pressed(interrupt: KeyboardInterrupt) -> bool:
    """Whether the interrupt came from the process's SIGINT handler, not from the check itself."""
    traceback = interrupt.__traceback__
    if traceback is None:
        return False
    codes = [traceback.tb_frame.f_code]
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
        codes.append(traceback.tb_frame.f_code)
    handler = signal.getsignal(signal.SIGINT)
    while isinstance(handler, partial):  # That of `asyncio.run` is one.
        handler = handler.func
    if handler is signal.default_int_handler:
        # Written in C, it leaves no frame of its own: what it interrupted stood at no `raise`.
        return codes[-1].co_code[traceback.tb_lasti] != opmap["RAISE_VARARGS"]
    # It may have passed the signal on to another, which raised.
    return getattr(handler, "__code__", None) in codes
