"""A worker that says it is alive: a component that fails when it has not been heard of for too long."""

import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from otel_health.check import Failed, is_async, require_seconds
from otel_health.instant import Instant

Function = TypeVar("Function", bound=Callable[..., Any])


class Heartbeat(Instant):
    """Passes while beats come, and fails when the last one is older than `max_age`.

    Before the first beat it is pending, so never up; a worker that never begins is noticed `max_age` seconds after
    the heartbeat was made, or its Checker was opened.

    Args:
        max_age: Seconds that may pass without a beat.
        clock: Monotonic seconds; the Checker's own.

    Raises:
        ValueError: `max_age` is no positive, finite number of seconds.

    Example:
        >>> consumer = checker.heartbeat("consumer", max_age=60)
        >>> consumer.beat()
    """

    def __init__(self, *, max_age: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        require_seconds("heartbeat", "max_age", max_age)
        self.max_age = max_age
        self._clock = clock
        self._since = clock()
        self._beaten: float | None = None
        self._running: tuple[tuple[Job, float, float], ...] = ()
        """The jobs that run, each with when it began and how long it may take."""

    def beat(self) -> None:
        """Say that the worker is alive; from any thread."""
        self._beaten = self._clock()
        # Whoever judges is among those that are down before it looks at the last beat: one of the two sees the other.
        if self.down:
            self.changed()

    def job(self, *, expected: float) -> "Job":
        """Return a context manager and decorator for a job that beats by succeeding.

        A job that raises gives no beat, and the exception passes on. One that takes longer than expected fails the
        component while it still runs.

        Args:
            expected: Seconds that it may take.

        Raises:
            ValueError: `expected` is no positive, finite number of seconds.

        Example:
            >>> @nightly.job(expected=30.0)
            ... async def tidy() -> None: ...
        """
        require_seconds("job", "expected", expected)
        return Job(self, expected)

    def __call__(self) -> dict[str, float]:
        """Pass with the age of the last beat.

        Raises:
            Failed: The last beat is too old, or a job takes too long.
        """
        beaten, now = self._beaten, self._clock()
        age = max(now - self._last, 0.0)
        for _, begun, expected in self._running:
            if now - begun >= expected:
                raise Failed(f"a job has run for {now - begun:.1f} s; {expected:g} s were expected", age=age)
        if beaten is None:
            raise Failed(f"no beat since the start {age:.1f} s ago; max_age is {self.max_age:g} s", age=age)
        if age >= self.max_age:
            raise Failed(f"no beat for {age:.1f} s; max_age is {self.max_age:g} s", age=age)
        return {"age": age}

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """Whether the first beat may still be waited for."""
        return self._beaten is None and self._clock() < self.expires_at

    @property
    def expires_at(self) -> float:  # type: ignore[override]
        """When it fails unless another beat comes."""
        return min([self._last + self.max_age, *(begun + expected for _, begun, expected in self._running)])

    @property
    def _last(self) -> float:
        """From when its age is counted: its last beat, or when the Checker was opened, if nothing beat since."""
        return self._since if self._beaten is None else max(self._beaten, self._since)

    def opened(self) -> None:
        """Count the time to the next beat from here: while the Checker was closed nobody had to beat."""
        self._since = self._clock()
        self.changed()

    def begin(self, job: "Job", expected: float) -> None:
        """Take note of a job that begins."""
        with self._guard:
            if any(each is job for each, _, _ in self._running):
                raise RuntimeError("this job is running already; call heartbeat.job(...) for each run")
            self._running = (*self._running, (job, self._clock(), expected))
        self.changed()

    def end(self, job: "Job", *, succeeded: bool) -> None:
        """Take note of a job that has ended."""
        with self._guard:
            self._running = tuple(each for each in self._running if each[0] is not job)
        if succeeded:
            self.beat()
        else:
            self.changed()


class Job(AbstractContextManager["Job"]):
    """One job of a heartbeat, as a context manager or as a decorator; see `Heartbeat.job`."""

    def __init__(self, heartbeat: Heartbeat, expected: float) -> None:
        self._heartbeat = heartbeat
        self._expected = expected

    def __enter__(self) -> Self:
        self._heartbeat.begin(self, self._expected)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._heartbeat.end(self, succeeded=kind is None)

    def __call__(self, function: Function) -> Function:
        """Make a job of each call of the function, sync or async.

        Raises:
            TypeError: It is a generator function, whose call does not do the work.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is a generator function; use `with heartbeat.job(...)` inside it")
        heartbeat, expected = self._heartbeat, self._expected
        if is_async(function):

            @wraps(function)
            async def run_async(*args: Any, **options: Any) -> Any:
                with Job(heartbeat, expected):
                    return await function(*args, **options)

            return cast("Function", run_async)

        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            with Job(heartbeat, expected):
                return function(*args, **options)

        return cast("Function", run)
