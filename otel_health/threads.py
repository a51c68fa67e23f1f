"""Daemon threads for calls that block: bounded in number, never joined, nothing left behind when idle."""

import _thread
import asyncio
import itertools
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from otel_health.forks import tell_of_forks

IDLE_SECONDS: Final = 10.0
"""How long a thread waits for the next job before it ends."""

STUCK_AFTER: Final = 0.05
"""Seconds after which a job that others wait behind no longer counts as working."""

_numbers = itertools.count(1)


class Job:
    """One call handed to `Threads`; `started` is None until a thread takes it."""

    __slots__ = ("call", "started", "stuck")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call
        self.started: float | None = None
        self.stuck = False


class Threads:
    """A pool whose hung jobs take no place from the others.

    At most `working` threads run jobs at once, beside those that are stuck in a job that was given up or that
    others have waited behind for `STUCK_AFTER`; at most `total` in all. Interpreter exit never waits for them
    (unlike `concurrent.futures`, whose exit handler joins its threads).

    Args:
        working: How many threads may work at once.
        total: How many threads may exist, stuck ones included.
        clock: Monotonic seconds.
    """

    def __init__(self, working: int, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._working = working
        self._total = total
        self._clock = clock
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew: a forked child has none of the threads, and their jobs are the parent's to do."""
        # A collection of garbage may submit a job while this thread holds the lock.
        self._lock = threading.RLock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._running: set[Job] = set()
        self._alive = 0
        self._idle = 0
        self._stuck = 0
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return self._waiting

    @property
    def busy(self) -> bool:
        """Whether any job waits or runs."""
        return self._waiting > 0 or bool(self._running)

    def submit(self, call: Callable[[], None]) -> Job:
        """Have a thread make `call`, which must not raise."""
        job = Job(call)
        with self._lock:
            self._closed = False
            self._waiting += 1
            self._grow()
        self._jobs.put(job)
        return job

    def withdraw(self, job: Job) -> bool:
        """Take back a job that still waits; False if a thread has it already."""
        with self._lock:
            if job.started is not None or job.call is None:
                return False
            job.call = None
            self._waiting -= 1
            return True

    def give_up(self, job: Job) -> None:
        """Stop counting on the thread that runs `job`, so that another may work in its place."""
        with self._lock:
            self._set_stuck(job)
            self._grow()

    def relieve(self) -> bool:
        """Let waiting jobs pass those that have held their thread for `STUCK_AFTER`; whether any still wait."""
        with self._lock:
            if self._waiting > self._idle:
                since = self._clock() - STUCK_AFTER
                for job in [job for job in self._running if job.started is not None and job.started <= since]:
                    self._set_stuck(job)
                self._grow()
            return self._waiting > self._idle

    def close(self) -> None:
        """End the idle threads now and the others as their jobs end; a later `submit` starts new ones."""
        with self._lock:
            self._closed = True
            for _ in range(self._alive - len(self._running)):
                self._jobs.put(None)

    def _set_stuck(self, job: Job) -> None:
        if job in self._running and not job.stuck:
            job.stuck = True
            self._stuck += 1

    def _grow(self) -> None:
        while self._waiting > self._idle and self._alive - self._stuck < self._working and self._alive < self._total:
            self._alive += 1
            self._idle += 1
            try:
                start(self._work, f"otel_health-{next(_numbers)}")
            except RuntimeError:  # The system has no thread left: the job waits, and is saturated in the end.
                self._alive -= 1
                self._idle -= 1
                return

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                job = None
            if not self._take(job):
                return
            if job is not None and job.call is not None:
                job.call()
                job.call = None
                if not self._finish(job):
                    return

    def _take(self, job: Job | None) -> bool:
        with self._lock:
            if job is None:
                # A job put between the time-out and here keeps this thread: it may be the only one.
                if self._waiting >= self._idle:
                    return True
                self._alive -= 1
                self._idle -= 1
                return False
            if job.call is not None:
                job.started = self._clock()
                self._waiting -= 1
                self._idle -= 1
                self._running.add(job)
            return True

    def _finish(self, job: Job) -> bool:
        with self._lock:
            self._running.discard(job)
            if job.stuck:
                self._stuck -= 1
            if self._alive - self._stuck > self._working or (self._closed and self._waiting == 0):
                self._alive -= 1
                return False
            self._idle += 1
            return True


def are_greenlets() -> bool:
    """Whether gevent or eventlet has put greenlets in the place of threads, since this was imported."""
    return _thread.start_new_thread is not start_new_thread


def start(work: Callable[[], None], name: str) -> None:
    """Start a daemon thread: a real one, also where threads that others start are greenlets.

    Raises:
        RuntimeError: The system has no thread left.
    """
    if are_greenlets():
        start_new_thread(work, ())  # It has no name there, and nobody finds it in `threading.enumerate()`.
    else:
        threading.Thread(target=work, name=name, daemon=True).start()


def call_on(loop: asyncio.AbstractEventLoop | None, call: Callable[..., object], *arguments: object) -> bool:
    """Have the call made on a loop, from whatever thread; False where there is no loop, or it is closed."""
    if loop is None:
        return False
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # It is closed.
        return False
    return True
