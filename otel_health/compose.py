"""Check functions made of check functions: plain functions from `CheckFunc` to `CheckFunc`."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Final, Protocol, TypeVar, cast

from otel_health.check import (
    NAME,
    Check,
    CheckFunc,
    CheckReturn,
    Degraded,
    Ending,
    Failed,
    is_async,
    judge,
    observed,
    require_callable,
    require_count,
    require_name,
    require_seconds,
)
from otel_health.report import MAX_OBSERVATIONS, CheckResult, ErrorType, Status

Value = TypeVar("Value")
Measure = Callable[[], float | Awaitable[float]]
"""A callable without arguments, sync or async, that returns a number."""


class Child(Ending, Protocol):
    """A run of a composite's child."""

    def cancel(self) -> None:
        """Drop the run; what cannot be ended is abandoned and counted."""


class Parent(Protocol):
    """The place in which a composite runs."""

    def start_child(self, name: str, function: CheckFunc, ended: Callable[[Child], None], share: float = 1.0) -> Child:
        """Begin a run of a child; `ended` is called on the loop, once."""


parent: Final[ContextVar[Parent]] = ContextVar("otel_health_parent")


def all_of(**checks: CheckFunc) -> CheckFunc:
    """Return a check function that passes if every one of `checks` does.

    They run concurrently. It warns if one warns, and fails if one fails; the reason names each of those.
    Observations are kept as `<check>.<observation>`, as many as fit into 16.

    Raises:
        ValueError: There is no check, or a name is ill-formed.
    """
    children = _children("all_of", checks)

    async def check() -> CheckReturn:
        results = await _results(children, enough=lambda _: False)
        failed = [result for result in results if not result.status.up]
        warned = [result for result in results if result.status is Status.WARN]
        observations = _merged(results)
        if failed:
            raise Failed(f"{len(failed)} of {len(results)} failed: {_named(failed)}", **observations)
        if warned:
            raise Degraded(f"{len(warned)} of {len(results)} degraded: {_named(warned)}", **observations)
        return observations

    return check


def any_of(**checks: CheckFunc) -> CheckFunc:
    """Return a check function that passes as soon as one of `checks` does: `any_of(primary=..., replica=...)`.

    See `at_least`.

    Raises:
        ValueError: There is no check, or a name is ill-formed.
    """
    _children("any_of", checks)
    return at_least(1, **checks)


def at_least(n: int, /, **checks: CheckFunc) -> CheckFunc:
    """Return a check function that passes as soon as `n` of `checks` do: a quorum of replicas.

    They run concurrently, and it answers as soon as it is decided; what still runs then is cancelled. It warns
    if `n` are up but not all of those pass, and fails, naming who failed, as soon as `n` cannot be reached.

    Raises:
        ValueError: There is no check, a name is ill-formed, or `n` is not between 1 and their number.
    """
    children = _children("at_least", checks)
    require_count("at_least", "n", n)
    if n > len(children):
        raise ValueError(f"at_least: n={n} can never be reached by {len(children)} checks; lower n or add checks")

    def decided(results: list[CheckResult]) -> bool:
        passed = sum(result.status is Status.PASS for result in results)
        up = sum(result.status.up for result in results)
        return passed >= n or up + len(children) - len(results) < n

    async def check() -> CheckReturn:
        results = await _results(children, enough=decided)
        up = [result for result in results if result.status.up]
        not_passed = [result for result in results if result.status is not Status.PASS]
        observations = _merged(results)
        if len(up) < n:
            raise Failed(f"{len(up)} of the {n} needed are up: {_named(not_passed)}", **observations)
        if sum(result.status is Status.PASS for result in up) < n:
            raise Degraded(f"fewer than {n} pass: {_named(not_passed)}", **observations)
        return observations

    return check


def retried(check: CheckFunc, *, attempts: int = 2, backoff: float = 0.1) -> CheckFunc:
    """Return a check function that tries `check` up to `attempts` times before it fails.

    All attempts share the one deadline. A warn is an answer and is not retried.

    Args:
        check: The check function to try.
        attempts: How often at the most, the first included.
        backoff: Seconds to wait before the second attempt; doubled before each further one.

    Raises:
        ValueError: `attempts` or `backoff` is out of its range.
        TypeError: `check` cannot be called.
    """
    require_count("retried", "attempts", attempts)
    require_seconds("retried", "backoff", backoff)
    require_callable("retried", check)
    attempt = Check(name="attempt", function=check)

    async def again() -> CheckReturn:
        for tried in range(attempts):
            if tried:
                await asyncio.sleep(backoff * 2 ** (tried - 1))
            ending = await ending_of(attempt.name, attempt.function)
            result = judge(attempt, ending, time.time())
            if result.status.up:
                break
        if ending.exception is not None:
            raise ending.exception
        if result.status.up:
            return result.observations
        raise Failed(f"{attempts} attempts failed, the last with {_named([result])}")

    return again


def threshold(
    measure: Measure,
    *,
    warn: float | None = None,
    fail: float | None = None,
    low_is_bad: bool = False,
    observation: str = "value",
) -> CheckFunc:
    """Return a check function that holds a number against limits: queue backlog, pool use, replica lag.

    Args:
        measure: Returns the number, sync or async; one that is not finite fails.
        warn: From this value on it warns.
        fail: From this value on it fails.
        low_is_bad: Whether the limits are reached from above (free space) rather than from below (backlog).
        observation: The name under which the number is recorded.

    Raises:
        ValueError: Neither limit is given, they are out of order, or the observation's name is ill-formed.
        TypeError: `measure` cannot be called.
    """
    require_callable("threshold", measure)
    require_name(observation, "observation")
    try:
        limits = observed({name: value for name, value in (("warn", warn), ("fail", fail)) if value is not None})
    except ValueError:
        raise ValueError(f"threshold: warn={warn!r} and fail={fail!r} must be finite numbers, if given") from None
    if not limits:
        raise ValueError("threshold: give warn=, fail= or both; without a limit it could never say anything")
    if len(limits) == 2 and (limits["fail"] < limits["warn"]) != low_is_bad and limits["fail"] != limits["warn"]:
        raise ValueError(
            f"threshold: warn={warn!r} would only be reached after fail={fail!r}; swap them, "
            f"or say low_is_bad={not low_is_bad}"
        )

    def conclude(value: float) -> CheckReturn:
        found = observed({observation: value})
        number = found[observation]
        for limit, wording in (("fail", Failed), ("warn", Degraded)):
            bound = limits.get(limit)
            if bound is not None and (number <= bound if low_is_bad else number >= bound):
                raise wording(f"{observation} is {number:g}; {limit} is at {bound:g}", **found)
        return found

    async def conclude_later(value: Awaitable[float]) -> CheckReturn:
        return conclude(await value)

    def check() -> CheckReturn | Awaitable[CheckReturn]:
        value = measure()
        return conclude_later(value) if inspect.isawaitable(value) else conclude(value)

    async def check_on_loop() -> CheckReturn:
        return await conclude_later(measure())  # type: ignore[arg-type]

    return check_on_loop if is_async(measure) else check


def _children(composite: str, checks: Mapping[str, CheckFunc]) -> tuple[Check, ...]:
    if not checks:
        raise ValueError(f"{composite}: give at least one check, as {composite}(primary=..., replica=...)")
    return tuple(Check(name=name, function=function) for name, function in checks.items())


async def _results(children: tuple[Check, ...], enough: Callable[[list[CheckResult]], bool]) -> list[CheckResult]:
    """Run the children until all have ended, or until what is known is enough; then drop the rest."""
    place = _parent()
    results: list[CheckResult] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(child: Check, ending: Ending) -> None:
        results.append(judge(child, ending, time.time()))
        if len(results) == len(children) or enough(results):
            set_once(done, None)

    def begin(child: Check) -> Child:
        return place.start_child(child.name, child.function, lambda ending: ended(child, ending))

    runs = [begin(child) for child in children]
    try:
        await done
    finally:
        for run in runs:
            run.cancel()
    return results


async def blocking(name: str, function: Callable[[], Value]) -> Value:
    """Call `function`, which blocks, from an async check: in one of the Checker's threads, as a run of its own.

    So a name resolution that hangs is abandoned and counted like any other run, and holds one thread at the most.

    Raises:
        TimeoutError: It did not end in what is left of the check's time, an earlier call is still alive, or no
            thread came free.
    """
    ending = await ending_of(name, function)  # type: ignore[arg-type]
    if ending.exception is not None:
        raise ending.exception
    if ending.reason is not None:
        raise TimeoutError(f"{name}: {_UNENDED[ending.reason]}")
    return cast("Value", ending.value)


_UNENDED: Final = {
    ErrorType.TIMEOUT: "did not end in time",
    ErrorType.HUNG: "an earlier call has not ended; nothing was started",
    ErrorType.SATURATED: "no thread came free in time",
}


async def ending_of(name: str, function: CheckFunc, *, share: float = 1.0) -> Ending:
    """Run a child of the check that is running, and return how that ended.

    Args:
        name: Tells the children of a check apart.
        function: Any check function.
        share: How much of what is left of the check's time it may take.
    """
    done: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
    run = _parent().start_child(name, function, partial(set_once, done), share)
    try:
        return await done
    finally:
        run.cancel()


def set_once(future: asyncio.Future[Value], value: Value) -> None:
    """Give a future its result, unless it has one or nobody waits any more."""
    if not future.done():
        future.set_result(value)


def _parent() -> Parent:
    try:
        return parent.get()
    except LookupError:
        raise RuntimeError(
            "a composite check runs its children under a Checker; register it with checker.add(...) and run that"
        ) from None


def _named(results: list[CheckResult]) -> str:
    return ", ".join(sorted(f"{result.component} ({result.error_type}: {result.message})" for result in results))


def _merged(results: list[CheckResult]) -> dict[str, float]:
    merged = {f"{result.component}.{name}": value for result in results for name, value in result.observations.items()}
    fitting = [(name, value) for name, value in sorted(merged.items()) if NAME.fullmatch(name)]
    return dict(fitting[:MAX_OBSERVATIONS])
