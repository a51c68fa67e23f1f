"""For your own tests: check functions that pass, fail, hang and block; a clock that you move; an assertion on a report.

Example:
    >>> async def test_we_stay_ready_without_the_cache() -> None:
    ...     checker = Checker()
    ...     checker.add("postgres", passing())
    ...     checker.add("cache", failing(ConnectionError("refused")), critical=False)
    ...     assert_statuses(await checker.run(), {"postgres": "pass", "cache": "fail"})
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping

from otel_health.check import require_seconds
from otel_health.report import HealthReport, Status

AsyncCheck = Callable[[], Awaitable[None]]


def passing() -> AsyncCheck:
    """Return a check function that passes at once."""

    async def check() -> None:
        return None

    return check


def failing(error: BaseException | None = None) -> AsyncCheck:
    """Return a check function that raises `error`, a refused connection if you do not say which.

    Give it `Degraded("...")` to have it warn.
    """

    async def check() -> None:
        raise error or ConnectionError("refused")

    return check


def hanging() -> AsyncCheck:
    """Return a check function that never ends, but lets itself be cancelled: a server that does not answer."""

    async def check() -> None:
        await asyncio.Event().wait()

    return check


class Blocking:
    """A synchronous check function that holds its thread until it is let go; see `blocking`."""

    def __init__(self) -> None:
        self.calls = 0
        """How often it was called."""
        self.entered = threading.Event()
        """Set once it has been called."""
        self.let_go = threading.Event()
        """Set it to let every call return, those to come too."""

    def __call__(self) -> None:
        self.calls += 1
        self.entered.set()
        self.let_go.wait()


def blocking() -> Blocking:
    """Return a synchronous check function that holds its thread, as a driver without a timeout does.

    Nothing can end a thread: set `let_go` before your test is over.

    Example:
        >>> stuck = blocking()
        >>> checker.add("ldap", stuck, timeout=0.1)
        >>> assert_statuses(await checker.run(), {"ldap": "fail"})
        >>> stuck.let_go.set()
    """
    return Blocking()


class Clock:
    """Monotonic seconds that pass only when you say so: `Checker(clock=clock)`.

    Ages follow it, and with them `ttl` and staleness. Deadlines want both it and the timers of the event loop to have
    moved on: use it with checks that end. An open Checker renews by the loop's timers, whatever this clock says.

    Example:
        >>> clock = Clock()
        >>> checker = Checker(clock=clock, interval=10.0, timeout=3.0)
        >>> checker.add("postgres", passing())
        >>> await checker.run()
        >>> clock.advance(23.1)  # two intervals and a timeout
        >>> checker.report().components["postgres"].error_type
        <ErrorType.STALE: 'stale'>
    """

    def __init__(self) -> None:
        self._now = 1000.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass.

        Raises:
            ValueError: Not a positive, finite number: a monotonic clock never goes back.
        """
        require_seconds("Clock", "advance", seconds)
        self._now += seconds


def assert_statuses(report: HealthReport, expected: Mapping[str, str]) -> None:
    """Assert that the report holds exactly these components, with these statuses.

    Args:
        report: What `Checker.run` or `Checker.report` returned.
        expected: The status of every component by its name: `"pass"`, `"warn"`, `"fail"` or a `Status`.

    Raises:
        AssertionError: It does not; says of each component that differs what is held of it, and why.
        ValueError: An expected status is none.
    """
    wanted = {name: Status(status) for name, status in expected.items()}
    wrong = [
        f"  {name}: expected {wanted.get(name, 'no such component')}, is {_described(report, name)}"
        for name in sorted(wanted.keys() | report.components.keys())
        if wanted.get(name) != report.statuses.get(name)
    ]
    if wrong:
        raise AssertionError("\n".join([f"{report.probe} is not as expected:", *wrong]))


def _described(report: HealthReport, name: str) -> str:
    state = report.components.get(name)
    if state is None:
        return "not asked by this probe"
    why = [str(part) for part in (state.error_type, state.result and state.result.message) if part]
    return f"{state.status} ({': '.join(why)})" if why else str(state.status)
