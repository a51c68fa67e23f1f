"""Check functions made of check functions."""

import asyncio
import functools
import math
import threading
import time
from collections.abc import Callable

import pytest

from otel_health import (
    Checker,
    CheckFunc,
    ComponentState,
    Degraded,
    ErrorType,
    Failed,
    Status,
    all_of,
    any_of,
    at_least,
    retried,
    threshold,
)
from tests.doubles import Switch, eventually, failing, hanging, passing, swallowing
from tests.virtual import now, virtual_checker

pytestmark = pytest.mark.virtual_time


async def state_of(check: CheckFunc) -> ComponentState:
    """The state after one run of a check in virtual time, with a timeout of 10 s."""
    checker = virtual_checker(timeout=10.0)
    checker.add("it", check)
    return (await checker.run()).components["it"]


def message(state: ComponentState) -> str:
    """What the last result said."""
    assert state.result is not None
    return state.result.message or ""


async def degraded() -> None:
    """A check that warns."""
    raise Degraded("so so", lag=2)


async def test_all_of_passes_if_every_one_does() -> None:
    """Their observations are kept under their names."""

    async def observing() -> dict[str, float]:
        return {"lag": 1}

    state = await state_of(all_of(primary=observing, replica=observing, cache=passing()))

    assert state.status is Status.PASS
    assert state.result is not None
    assert state.result.observations == {"primary.lag": 1.0, "replica.lag": 1.0}


async def test_all_of_names_everyone_who_failed() -> None:
    """The reason names each of them with its error."""
    state = await state_of(all_of(a=failing(ValueError("x")), b=passing(), c=failing(Failed("down"))))

    assert (state.status, message(state)) == (Status.FAIL, "2 of 3 failed: a (failed: x), c (failed: down)")


async def test_all_of_warns_if_one_warns() -> None:
    """A degraded part degrades the whole."""
    state = await state_of(all_of(a=degraded, b=passing()))

    assert (state.status, message(state)) == (Status.WARN, "1 of 2 degraded: a (degraded: so so)")


async def test_children_run_concurrently() -> None:
    """Twenty children of half a second take half a second."""
    begun = now()

    await state_of(all_of(**{f"c{number}": functools.partial(asyncio.sleep, 0.5) for number in range(20)}))

    assert now() - begun == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("compose", [all_of, any_of], ids=["all_of", "any_of"])
async def test_a_child_that_others_have_cancelled_has_not_passed(compose: Callable[..., CheckFunc]) -> None:
    """It has said nothing; what is made of it may not say that all is well."""

    async def child() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1, task.cancel)
        await asyncio.Event().wait()

    state = await state_of(compose(child=child, failing=failing() if compose is any_of else passing()))

    assert state.status is Status.FAIL
    assert "child (failed: )" in message(state)


@pytest.mark.parametrize("stuck", [hanging(), swallowing()], ids=["hanging", "swallowing"])
async def test_any_of_passes_as_soon_as_one_does(stuck: CheckFunc) -> None:
    """A hanging replica costs the quorum nothing."""
    begun = now()

    state = await state_of(any_of(a=stuck, b=passing(), c=failing()))

    assert state.status is Status.PASS
    assert now() == begun


async def test_any_of_fails_if_all_do() -> None:
    """And names them."""
    state = await state_of(any_of(a=failing(), b=failing()))

    assert message(state) == "0 of the 1 needed are up: a (failed: refused), b (failed: refused)"


async def test_a_quorum_fails_as_soon_as_it_cannot_be_reached() -> None:
    """Two of three have failed: the hanging third need not be waited for."""
    begun = now()

    state = await state_of(at_least(2, a=failing(), b=failing(), c=hanging()))

    assert state.status is Status.FAIL
    assert now() == begun


async def test_a_quorum_that_needs_a_degraded_member_is_degraded() -> None:
    """Up, but not as it should be."""
    state = await state_of(at_least(2, a=passing(), b=degraded, c=failing()))

    assert state.status is Status.WARN
    assert "b (degraded: so so), c (failed: refused)" in message(state)


async def test_a_composite_says_who_was_late() -> None:
    """The child's deadline comes before the parent's, which so can name it."""
    state = await state_of(all_of(a=passing(), b=hanging()))

    assert state.error_type is ErrorType.FAILED
    assert "b (timeout: did not end within 9.95 s)" in message(state)


async def test_a_short_deadline_leaves_its_parts_nine_tenths_of_it() -> None:
    """However much is kept back for the words of a longer one."""
    checker = virtual_checker(timeout=0.04)
    checker.add("it", all_of(a=functools.partial(asyncio.sleep, 0.03)))

    assert (await checker.run()).status is Status.PASS


async def test_a_hung_child_is_counted_and_not_started_again() -> None:
    """It neither condemns its parent nor escapes the count of abandoned runs."""
    cancelled: list[object] = []
    checker = virtual_checker(timeout=1.0, ttl=0.5)
    checker.add("quorum", any_of(a=passing(), b=swallowing(cancelled)))

    for _ in range(5):
        assert (await checker.run()).status is Status.PASS
        await asyncio.sleep(1)

    assert [component.abandoned_runs for component, _ in checker.engine.states()] == [1]
    assert len(cancelled) == 1


async def test_sync_children_run_in_threads() -> None:
    """A child that blocks its thread blocks nobody else."""
    let_go = threading.Event()
    checker = Checker(timeout=0.3)
    checker.add("quorum", at_least(2, a=let_go.wait, b=lambda: None, c=passing()))

    report = await checker.run()

    assert report.status is Status.PASS
    let_go.set()


async def test_composites_nest() -> None:
    """A composite is a check function like any other."""
    state = await state_of(
        all_of(
            databases=any_of(primary=failing(), replica=passing()),
            caches=at_least(1, a=retried(failing(), attempts=2), b=passing()),
        )
    )

    assert state.status is Status.PASS


async def test_a_child_that_blocks_the_loop_is_laid_to_itself() -> None:
    """A neighbouring composite keeps its time."""

    async def blocking() -> None:
        time.sleep(0.05)  # noqa: ASYNC251 - blocking the loop is what is tested.

    state = await state_of(all_of(a=blocking, b=passing()))

    assert state.status is Status.PASS


async def test_a_composite_outside_a_checker_is_refused() -> None:
    """Its children need a runner."""
    check = all_of(a=passing())
    with pytest.raises(RuntimeError, match="runs its children under a Checker; register it"):
        await check()  # type: ignore[misc]


@pytest.mark.parametrize("n", [0, -1, 3, True, 1.5])
def test_a_quorum_that_makes_no_sense_is_refused(n: int) -> None:
    """It must be reachable, and ask for something."""
    with pytest.raises(ValueError, match="at_least: n="):
        at_least(n, a=passing(), b=passing())


def test_a_composite_of_nothing_is_refused() -> None:
    """All of nothing would always pass."""
    with pytest.raises(ValueError, match="all_of: give at least one check"):
        all_of()
    with pytest.raises(ValueError, match=r"any_of: give at least one check, as any_of\(primary="):
        any_of()


async def test_retried_takes_the_first_success() -> None:
    """A failure is tried again, after a pause that doubles."""
    calls: list[float] = []

    async def flaky() -> dict[str, float]:
        calls.append(now())
        if len(calls) < 3:
            raise ConnectionError("refused")
        return {"attempts": len(calls)}

    state = await state_of(retried(flaky, attempts=3, backoff=0.1))

    assert state.status is Status.PASS
    assert [round(call - calls[0], 3) for call in calls] == [0.0, 0.1, 0.3]
    assert state.result is not None
    assert state.result.observations == {"attempts": 3.0}


def test_retried_wants_a_function() -> None:
    """It says so of itself: its caller knows of no check called `attempt`."""
    with pytest.raises(TypeError, match="retried: int cannot be called; pass the function"):
        retried(3)  # type: ignore[arg-type]


async def test_retried_raises_the_last_error() -> None:
    """What is told is the check's own error."""
    switch = Switch()
    switch.error = ConnectionResetError("gone")

    state = await state_of(retried(switch, attempts=3, backoff=0.1))

    assert switch.calls == 3
    assert state.result is not None
    assert state.result.exception_type == "ConnectionResetError"


async def test_retried_takes_a_warn_for_an_answer() -> None:
    """Degraded is not tried again."""
    state = await state_of(retried(degraded, attempts=3))

    assert (state.status, message(state)) == (Status.WARN, "so so")


async def test_retried_retries_a_check_that_returns_false() -> None:
    """False is a failure as much as an exception is."""
    answers = iter([False, True])

    async def check() -> bool:
        return next(answers)

    assert (await state_of(retried(check))).status is Status.PASS


@pytest.mark.parametrize(
    ("value", "expected"), [(0, Status.PASS), (99, Status.PASS), (100, Status.WARN), (1000, Status.FAIL)]
)
async def test_threshold_holds_a_number_against_limits(value: float, expected: Status) -> None:
    """The limits themselves count as reached, and the number is recorded."""

    async def backlog() -> float:
        return value

    state = await state_of(threshold(backlog, warn=100, fail=1000, observation="backlog"))

    assert state.status is expected
    assert state.result is not None
    assert state.result.observations == {"backlog": float(value)}


async def test_threshold_where_low_is_bad() -> None:
    """Free space is bad when there is little."""

    async def free() -> float:
        return 5

    assert (await state_of(threshold(free, warn=20, fail=10, low_is_bad=True))).status is Status.FAIL


async def test_threshold_takes_sync_and_awaitable_measures() -> None:
    """As any check function, a measure may be of each kind."""

    async def later() -> float:
        return 3.0

    checker = Checker()
    checker.add("sync", threshold(lambda: 3.0, fail=2))
    checker.add("awaitable", threshold(lambda: later(), fail=2))

    assert set((await checker.run()).statuses.values()) == {Status.FAIL}


async def test_a_number_that_is_none_fails() -> None:
    """NaN is beyond no limit, and must not pass for that."""

    async def lag() -> float:
        return math.nan

    assert (await state_of(threshold(lag, fail=10))).status is Status.FAIL


def test_limits_out_of_order_are_refused() -> None:
    """A warning that comes after the failure would never be seen."""

    def measure() -> float:
        return 0.0

    with pytest.raises(ValueError, match="swap them, or say low_is_bad=True"):
        threshold(measure, warn=10, fail=5)
    with pytest.raises(ValueError, match="give warn=, fail= or both"):
        threshold(measure)
    with pytest.raises(ValueError, match="threshold: warn=nan and fail=None must be finite numbers, if given"):
        threshold(measure, warn=math.nan)


async def test_children_dropped_by_the_parents_end_are_cancelled() -> None:
    """No child outlives its composite if it can be cancelled."""
    cancelled = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await state_of(any_of(a=passing(), b=child))

    await eventually(cancelled.is_set)
