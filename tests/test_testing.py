"""What we give to other people's tests."""

import pytest

from otel_health import Checker, Degraded, ErrorType, Status
from otel_health.testing import Clock, assert_statuses, blocking, failing, hanging, passing


async def test_the_doubles_do_what_their_names_say() -> None:
    """One of each, in one Checker, within its deadline."""
    checker = Checker(timeout=0.2)
    stuck = blocking()
    checker.add("passing", passing())
    checker.add("failing", failing())
    checker.add("warning", failing(Degraded("slow")))
    checker.add("hanging", hanging())
    checker.add("blocking", stuck)

    report = await checker.run()
    stuck.let_go.set()

    errors = {name: state.error_type for name, state in report.components.items()}
    assert_statuses(
        report, {"passing": "pass", "failing": "fail", "warning": "warn", "hanging": "fail", "blocking": "fail"}
    )
    assert errors["failing"] == ErrorType.FAILED
    assert errors["hanging"] == errors["blocking"] == ErrorType.TIMEOUT
    assert stuck.calls == 1


async def test_the_assertion_says_what_is_wrong_and_why() -> None:
    """Every component that differs is named with what is held of it; those that agree are not."""
    checker = Checker()
    checker.add("postgres", failing(ConnectionError("refused")))
    checker.add("redis", passing())
    report = await checker.run()

    with pytest.raises(AssertionError) as caught:
        assert_statuses(report, {"postgres": "pass", "redis": Status.PASS, "mail": "pass"})

    assert str(caught.value) == (
        "readyz is not as expected:\n"
        "  mail: expected pass, is not asked by this probe\n"
        "  postgres: expected pass, is fail (failed: refused)"
    )


async def test_a_component_that_nobody_expected_is_wrong() -> None:
    """The expectation is the whole of it, so that a check that was forgotten shows."""
    checker = Checker()
    checker.add("redis", passing())
    report = await checker.run()

    with pytest.raises(AssertionError, match="redis: expected no such component, is pass"):
        assert_statuses(report, {})


async def test_a_status_that_is_none_is_refused() -> None:
    """A misspelt expectation is no failed assertion."""
    checker = Checker()
    checker.add("redis", passing())
    report = await checker.run()

    with pytest.raises(ValueError, match="'ok'"):
        assert_statuses(report, {"redis": "ok"})


async def test_ages_follow_the_clock() -> None:
    """A verdict goes stale when the clock says so, and not before."""
    clock = Clock()
    checker = Checker(clock=clock, interval=10.0, timeout=3.0)
    checker.add("postgres", passing())
    assert_statuses(await checker.run(), {"postgres": "pass"})

    clock.advance(22.9)
    assert_statuses(checker.report(), {"postgres": "pass"})
    clock.advance(0.2)

    assert checker.report().components["postgres"].error_type == ErrorType.STALE


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True])
def test_a_clock_does_not_go_back(seconds: float) -> None:
    """What no monotonic clock could do is refused."""
    with pytest.raises(ValueError, match="advance"):
        Clock().advance(seconds)
