"""Supervised tasks: started anew when they crash, with a wait that grows, and seen as components meanwhile."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Final, Self

from otel_health import names
from otel_health.check import READYZ, require_name, require_seconds
from otel_health.checker import Checker
from otel_health.forks import leave, tell_of_forks
from otel_health.ladder import Action, Ladder
from otel_health.recovery.life import Life, Work
from otel_health.recovery.supervised import Policy, Supervised, why

BEAT: Final = 5.0
"""Seconds between two signs of life of the supervisor."""

LATE_SECONDS: Final = 0.01
"""A timer of the loop may come a little early; what it is for is then to be seen already."""

FORSAKEN_SECONDS: Final = 0.1
"""How long a task that was left for good may take to be gone."""


class Supervisor:
    """Runs tasks for as long as it is entered, and starts anew those that crash.

    Each task is a component of the Checker: it passes while it runs, warns while it is started anew, and fails when
    that takes longer than `fail_after`, or when it was given up. Enter it inside the Checker; leaving it ends the
    tasks. While a `Drain` of the Checker drains, nothing is started anew.

    Args:
        checker: Whose components the tasks are.
        stop_within: Seconds that a task may take to end after it was cancelled.

    Raises:
        ValueError: `stop_within` is no positive, finite number of seconds.

    Example:
        >>> supervisor = Supervisor(checker)
        >>> supervisor.start("consumer", consume)
        >>> async with checker, supervisor:
        ...     yield
    """

    def __init__(self, checker: Checker, *, stop_within: float = 5.0) -> None:
        require_seconds("Supervisor", "stop_within", stop_within)
        self.stop_within = stop_within
        self.stopping = threading.Event()
        """Set when it is left: for functions in threads, which cannot be cancelled, to look at."""
        self._checker = checker
        self._tasks: dict[str, tuple[Supervised, Callable[[], object]]] = {}
        """Each task, and what registers its component."""
        self._outlived: dict[str, Life] = {}
        """What of a stopped task has not ended, by its name: another of that name waits for it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard_of = checker.now()
        self._beating: asyncio.TimerHandle | None = None
        tell_of_forks(self)

    def start(
        self,
        name: str,
        work: Work,
        *,
        restart_delay: float = 1.0,
        max_restart_delay: float = 60.0,
        healthy_after: float = 600.0,
        max_restarts: int | None = 60,
        fail_after: float = 10.0,
        may_finish: bool = False,
        probes: Collection[str] = frozenset({READYZ}),
        critical: bool = True,
        recover: Action | Ladder | None = None,
        recover_within: float = 30.0,
    ) -> Supervised:
        """Supervise a task: it is started now, or when the supervisor is entered.

        Args:
            name: The name of its component.
            work: A function without arguments. A coroutine function runs on the loop; any other in a daemon thread of
                its own, which nothing can end but its return; an awaitable that it returns is awaited on the loop.
            restart_delay: Seconds between its first crash and its next start; doubled at each further one, plus or
                minus 20 %.
            max_restart_delay: Seconds that this grows to.
            healthy_after: Seconds that it has to run for its crashes to be forgotten.
            max_restarts: How often it is started anew without that, before it is given up; None never gives up.
            fail_after: Seconds without its running well for which its component only warns.
            may_finish: Whether it may return; if not, that is a crash as any other.
            probes: The probes that ask its component; it looks only inside this process, so `livez` may be one.
            critical: Whether it turns its probes to fail, not only to warn.
            recover: What is done, as a recovery action, once it was given up.
            recover_within: Seconds that this may take.

        Raises:
            ValueError: The name is taken or ill-formed, or an option is out of its range.
            TypeError: The work, or the recovery action, cannot be called.
            RuntimeError: The supervisor is entered, and this is not its loop.
        """
        subject = f"task {name!r}"
        require_name(name, "task")
        if not callable(work):
            raise TypeError(f"{subject}: {type(work).__name__} cannot be called; pass the function, not its result")
        policy = Policy(
            restart_delay=restart_delay,
            max_restart_delay=max_restart_delay,
            healthy_after=healthy_after,
            max_restarts=max_restarts,
            fail_after=fail_after,
            may_finish=may_finish,
        )
        policy.require(subject)
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{subject}: the supervisor works on another event loop; start it from there")
        task = Supervised(name, work, policy, copy_context(), self._checker.now, lambda: self._heard_of)
        register = partial(
            self._checker.add, name, task, local=True, probes=probes, critical=critical,
            failure_threshold=1, success_threshold=1, recover=recover, recover_within=recover_within,
        )  # fmt: skip
        register()
        task.life = self._outlived.pop(name, None)
        self._tasks[name] = task, register
        if self._loop is not None:
            self._launch(task)
        return task

    async def stop(self, name: str) -> None:
        """End a task, and forget it and its component.

        One that is started under its name while its thread has not ended begins when it has.

        Raises:
            KeyError: There is no task of that name.
        """
        task = self._get(name)
        await self._end([task])
        self._tasks.pop(name, None)
        if task.life is not None and not task.life.ended.done():
            self._outlived[name] = task.life
        self._remove(task)

    async def restart(self, name: str) -> None:
        """End a task, if it lives, and start it anew at once; its crashes are forgotten.

        It never lives twice. One that does not end within `stop_within` is started anew when it does.

        Raises:
            KeyError: There is no task of that name.
            RuntimeError: The supervisor is not entered, or the task is a thread that lives, which nothing can end.
            TimeoutError: It has not ended.
        """
        task = self._get(name)
        if self._loop is None or self._checker.engine.leaving:
            raise RuntimeError(f"task {name!r} is not restarted: its supervisor is not entered, or about to be left")
        if task.life is not None and task.life.is_thread:
            raise RuntimeError(f"task {name!r} runs in a thread, which nothing can end but its own return")
        task.forgive()
        if task.supervision is None or task.supervision.done():
            self._again(task)
            self._launch(task)
        else:
            task.ask_again()
        try:
            async with asyncio.timeout(self.stop_within):
                await task.begun.wait()
        except TimeoutError:
            raise TimeoutError(
                f"task {name!r} has not ended within {self.stop_within:g} s of its cancellation"
            ) from None

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this Supervisor is already entered; enter it once")
        self._loop = asyncio.get_running_loop()
        self.stopping.clear()
        self._beat()
        for task, register in self._tasks.values():
            if task.name not in self._checker:
                register()
            self._launch(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        tasks = [task for task, _ in self._tasks.values()]
        try:
            await self._end(tasks)
        finally:
            if self._beating is not None:
                self._beating.cancel()
            self._loop = self._beating = None
            for task in tasks:
                self._remove(task)

    def forked(self) -> None:
        """Be left, in a forked child: what runs is the parent's."""
        self.stopping = threading.Event()
        leave(self._outlived)
        self._outlived = {}
        if self._loop is None:
            return
        leave((self._loop, self._beating))
        self._loop = self._beating = None
        for task, _ in self._tasks.values():
            leave((task.life, task.supervision))
            self._remove(task)

    def _get(self, name: str) -> Supervised:
        if name not in self._tasks:
            known = ", ".join(self._tasks) or "none"
            raise KeyError(f"no task is named {name!r}; supervised: {known}")
        return self._tasks[name][0]

    def _remove(self, task: Supervised) -> None:
        task.forget()
        if task.name in self._checker:
            self._checker.remove(task.name)

    # On the loop.

    def _beat(self) -> None:
        assert self._loop is not None
        self._heard_of = self._checker.now()
        self._beating = self._loop.call_later(BEAT, self._beat)

    def _launch(self, task: Supervised) -> None:
        assert self._loop is not None
        task.again, task.begun = asyncio.Event(), asyncio.Event()
        task.supervision = self._loop.create_task(self._supervise(task), name=f"supervision of {task.name}")
        task.supervision.add_done_callback(partial(self._watch, task))

    def _watch(self, task: Supervised, supervision: asyncio.Task[None]) -> None:
        """Notice a supervision that has ended by itself, so that the task is not believed to be looked after."""
        if task.supervision is not supervision:
            return
        error = asyncio.CancelledError() if supervision.cancelled() else supervision.exception()
        if error is not None:
            task.give_up(f"its supervision ended by {why(error)}")
            self._checker.fault("the supervision of %s ended by %s", task.name, why(error))

    async def _supervise(self, task: Supervised) -> None:
        """Start the task again and again, until it has finished, is given up, or the service leaves."""
        while True:
            delay = self._after(task, await self._live(task))
            if delay is None:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await task.again.wait()
            if self._checker.engine.leaving:
                task.finish()
                return
            self._again(task)

    async def _live(self, task: Supervised) -> BaseException | None:
        """Start the task; what ended it."""
        if task.life is not None:
            # Left behind by a supervision that died, or by a stop. A task never lives twice.
            task.life.cancel()
            await asyncio.wait((task.life.ended,))
        life = task.begin()
        try:
            await asyncio.wait((life.ended,), timeout=task.delay + LATE_SECONDS)
            if not life.ended.done():
                task.changed()  # It is well from now on.
                await asyncio.wait((life.ended,))
            return life.ended.result()
        finally:
            life.cancel()
            task.life = life if not life.ended.done() else None

    def _after(self, task: Supervised, error: BaseException | None) -> float | None:
        """What follows the end of a task: its next start, in so many seconds, or none."""
        if task.again.is_set():
            return 0.0
        if self._checker.engine.leaving or (error is None and task.policy.may_finish):
            task.finish()
            return None
        delay = task.crashed(error)
        self._tell(task, error, delay)
        return delay

    def _again(self, task: Supervised) -> None:
        task.restarts += 1
        self._checker.engine.count(names.TASK_RESTARTS, task.name)

    def _tell(self, task: Supervised, error: BaseException | None, delay: float | None) -> None:
        error_type = task.error_type(error)
        self._checker.engine.count(names.TASK_CRASHES, task.name, **{names.ERROR_TYPE: error_type})
        untold = task.untold()
        if delay is not None and untold is None:
            return
        more = f"; {untold} crashes before this one were not told of" if untold else ""
        follows = (
            f"it gives up after {task.crashes - 1} restarts" if delay is None else f"starts again in {delay:.1f} s"
        )
        self._checker.note(
            logging.ERROR,
            "%s crashed (%s), %s%s",
            task.name,
            why(error),
            follows,
            more,
            attributes={
                names.EVENT_COMPONENT: task.name,
                names.EVENT_ERROR_TYPE: error_type,
                names.EVENT_CRASHES: task.crashes,
            },
            exception=error,
        )

    async def _end(self, tasks: Iterable[Supervised]) -> None:
        """Cancel tasks and their supervisions, and wait for their end, as long as that may take."""
        lives = {}
        for task in tasks:
            supervision, task.supervision = task.supervision, None
            if supervision is not None:
                supervision.cancel()
            if task.life is not None:
                task.life.cancel()
                lives[task.life.ended] = task.name, task.life
        if not lives:
            return
        try:
            await asyncio.wait(lives, timeout=self.stop_within)
        finally:
            left = {ended: life for ended, life in lives.items() if not ended.done()}
            for name, life in left.values():
                life.forsake()
                self._checker.fault(
                    "the thread of task %s has not ended within %g s of the stop; nothing can end it, and the process "
                    "does not wait for it"
                    if life.is_thread
                    else "task %s denies its cancellation for %g s, and is driven no further",
                    name,
                    self.stop_within,
                )
        if left:
            await asyncio.wait(left, timeout=FORSAKEN_SECONDS)
