"""What is remembered of the last runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_health import Checker, CheckResult, Degraded, Status
from otel_health.history import KEPT, PastRun, recalled, remembered
from tests.doubles import Blocking, Switch


def result(status: Status, duration: float | None) -> CheckResult:
    """The result of a run."""
    return CheckResult("redis", status, duration, 0.0)


@given(st.sampled_from(Status), st.floats(2e-6, 3600.0))
def test_a_run_is_remembered_to_a_half_octave(status: Status, duration: float) -> None:
    """Its status as it was, and its duration up to a third less, whether microseconds or an hour."""
    (run,) = recalled(remembered(b"", result(status, duration)))

    assert run.status is status
    assert run.duration is not None
    assert run.duration <= duration < run.duration * 1.5 + 1e-6 or duration > 1500


@pytest.mark.parametrize(
    ("duration", "kept"), [(None, None), (0.0, 0.0), (9e-7, 0.0), (1e-6, 1e-6), (1e9, pytest.approx(1518.5, abs=1))]
)
def test_the_ends_of_what_can_be_remembered(duration: float | None, kept: float | None) -> None:
    """An attempt that started nothing, a run that took no time, and one that took ages."""
    assert recalled(remembered(b"", result(Status.FAIL, duration))) == [PastRun(Status.FAIL, kept)]


def test_the_oldest_runs_are_forgotten() -> None:
    """No component takes more than its thirty bytes."""
    runs = b""
    for number in range(100):
        runs = remembered(runs, result(Status.WARN if number == 69 or number == 70 else Status.PASS, 0.01))

    assert len(runs) == KEPT
    assert [run.status for run in recalled(runs)] == [Status.WARN, *[Status.PASS] * (KEPT - 1)]


async def test_a_checker_remembers_raw_results() -> None:
    """As the runs were, and not as thresholds have it; attempts that started nothing too."""
    blocking, switch = Blocking(), Switch()
    checker = Checker(ttl=1e-9, timeout=0.05)
    checker.add("stuck", blocking)
    checker.add("redis", switch, failure_threshold=3, critical=False)
    assert checker.particulars("redis") == (False, None, b"")
    for error in (None, ConnectionError(), Degraded("slow")):
        switch.error = error
        await checker.run()

    redis, stuck = checker.particulars("redis"), checker.particulars("stuck")

    assert redis is not None
    assert [run.status for run in recalled(redis.runs)] == [Status.PASS, Status.FAIL, Status.WARN]
    assert redis.last_success is not None
    assert stuck is not None
    assert stuck.last_success is None
    assert [run.duration is None for run in recalled(stuck.runs)] == [False, True, True]
    assert checker.particulars("nobody") is None
    blocking.let_go.set()
