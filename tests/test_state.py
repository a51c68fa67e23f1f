"""How results become state: thresholds, freshness and the verdict of a probe."""

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_health import Check, CheckResult, ComponentState, ErrorType, Status
from otel_health.state import advance, aged, pending, weigh, worst
from tests.doubles import passing

OUTCOMES = {
    Status.PASS: (Status.PASS, None),
    Status.WARN: (Status.WARN, ErrorType.DEGRADED),
    Status.FAIL: (Status.FAIL, ErrorType.FAILED),
}


def outcome(status: Status, checked_at: float = 0.0, error_type: ErrorType | None = None) -> CheckResult:
    """A raw result."""
    return CheckResult("redis", status, 0.1, checked_at, error_type or OUTCOMES[status][1])


def after(check: Check, *statuses: Status) -> ComponentState:
    """The state after a sequence of results, none of which grows old."""
    state = pending(0.0)
    for status in statuses:
        state = advance(state, outcome(status), check, expires_at=float("inf"))
    return state


P, W, F = Status.PASS, Status.WARN, Status.FAIL


@dataclass
class Model:
    """The reference model, written from the contract in the plainest words."""

    failure_threshold: int
    success_threshold: int
    up: bool | None = None
    shown: Status = F
    failures: int = 0
    successes: int = 0

    def result(self, status: Status) -> None:
        if status is F:
            self.failures, self.successes = self.failures + 1, 0
            if self.up is not True or self.failures >= self.failure_threshold:
                self.up, self.shown = False, F
        else:
            self.failures, self.successes = 0, self.successes + 1
            if self.up is True or self.successes >= self.success_threshold:
                self.up, self.shown = True, status

    def grow_stale(self) -> None:
        self.up, self.shown, self.successes = None, F, 0


class StateAgainstModel(RuleBasedStateMachine):
    """Every sequence of results and pauses ends where the reference model ends."""

    @initialize(failures=st.integers(1, 4), successes=st.integers(1, 4))
    def register(self, failures: int, successes: int) -> None:
        self.check = Check(
            name="redis",
            function=passing(),
            failure_threshold=failures,
            success_threshold=successes,
            interval=10.0,
            timeout=3.0,
        )
        self.model = Model(failures, successes)
        self.state = pending(0.0)
        self.now = 0.0

    @rule(status=st.sampled_from([P, W, F]), pause=st.floats(0.0, 22.9))
    def a_result_comes_in_time(self, status: Status, pause: float) -> None:
        self.now += pause if self.state.result is not None else 0.0
        self.state = advance(
            aged(self.state, self.check, self.now),
            outcome(status, self.now),
            self.check,
            self.now + self.check.fresh_for,
        )
        self.model.result(status)

    @rule(pause=st.floats(23.0, 1e6))
    def nothing_comes_for_long(self, pause: float) -> None:
        if self.state.result is not None:
            self.now += pause
            self.state = aged(self.state, self.check, self.now)
            self.model.grow_stale()

    @invariant()
    def the_state_is_the_models(self) -> None:
        state = aged(self.state, self.check, self.now)
        assert state.status is self.model.shown
        assert state.decided == (self.model.up is not None)
        assert state.consecutive_failures == self.model.failures
        assert state.consecutive_successes == self.model.successes

    @invariant()
    def it_is_never_up_without_a_fresh_success(self) -> None:
        state = aged(self.state, self.check, self.now)
        if state.status.up:
            assert state.result is not None
            assert self.now < state.expires_at


StateAgainstModel.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestStateAgainstModel = StateAgainstModel.TestCase


@pytest.mark.parametrize(("failure_threshold", "success_threshold"), list(product(range(1, 4), range(1, 4))))
def test_every_short_history_ends_as_the_model_says(failure_threshold: int, success_threshold: int) -> None:
    """All 1,092 histories of up to six results, for each pair of thresholds."""
    check = Check(
        name="redis",
        function=passing(),
        failure_threshold=failure_threshold,
        success_threshold=success_threshold,
    )
    for length in range(1, 7):
        for history in product([P, W, F], repeat=length):
            model = Model(failure_threshold, success_threshold)
            for status in history:
                model.result(status)
            assert after(check, *history).status is model.shown, history


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], F),
        ([F], F),
        ([P], F),
        ([P, P], P),
        ([P, W], W),
        ([W, W], W),
        ([P, P, F], P),
        ([P, P, F, F], P),
        ([P, P, F, F, F], F),
        ([P, P, F, F, W, F, F], W),
        ([P, P, F, F, F, P], F),
        ([P, P, F, F, F, P, P], P),
        ([P, P, W, F], W),
    ],
)
def test_thresholds_as_kubernetes_means_them(history: list[Status], expected: Status) -> None:
    """Three failures take it down, two successes bring it up, a warn is a success."""
    check = Check(name="redis", function=passing(), failure_threshold=3, success_threshold=2)

    assert after(check, *history).status is expected


def test_since_moves_with_the_status_only() -> None:
    """A repeat keeps the moment of the change."""
    check = Check(name="redis", function=passing())
    state = pending(1.0)
    for at, status in enumerate([P, P, F, F, P], start=10):
        state = advance(state, outcome(status, float(at)), check, float("inf"))
        assert state.since == {10: 10, 11: 10, 12: 12, 13: 12, 14: 14}[at]


def test_a_stale_component_fails_at_its_next_failure_whatever_the_threshold() -> None:
    """Nobody stood by the old verdict any more, so it shields from nothing."""
    check = Check(name="redis", function=passing(), failure_threshold=3)
    up = advance(pending(0.0), outcome(P), check, expires_at=23.0)

    stale = aged(up, check, 23.0)
    failed = advance(stale, outcome(F, 24.0), check, expires_at=47.0)

    assert (stale.status, stale.error_type) == (F, ErrorType.STALE)
    assert (failed.status, failed.error_type) == (F, ErrorType.FAILED)


def test_a_result_is_fresh_for_two_intervals_and_its_timeout() -> None:
    """To the moment, and not one longer."""
    check = Check(name="redis", function=passing(), interval=10.0, timeout=3.0)
    state = advance(pending(0.0), outcome(P), check, expires_at=check.fresh_for)

    assert aged(state, check, 22.999).status is P
    assert aged(state, check, 23.0).error_type is ErrorType.STALE


@pytest.mark.parametrize(
    ("probe", "error_type", "expected"),
    [
        ("livez", ErrorType.PENDING, P),
        ("livez", ErrorType.SATURATED, P),
        ("livez", ErrorType.FAILED, F),
        ("livez", ErrorType.TIMEOUT, F),
        ("livez", ErrorType.HUNG, F),
        ("livez", ErrorType.STALE, F),
        ("readyz", ErrorType.PENDING, F),
        ("readyz", ErrorType.SATURATED, F),
        ("readyz", ErrorType.STALE, F),
    ],
)
def test_liveness_fails_only_on_what_a_restart_may_mend(probe: str, error_type: ErrorType, expected: Status) -> None:
    """Never because nothing was decided yet, or no thread was free."""
    check = Check(name="loop", function=passing(), local=True, probes={"livez"})
    state = ComponentState(F, 0.0, error_type=error_type)

    assert weigh(probe, check, state, has_been_up=False) is expected


def test_a_failing_check_that_is_not_critical_warns() -> None:
    """An informational dependency takes nobody out of rotation."""
    check = Check(name="redis", function=passing(), critical=False)

    assert weigh("readyz", check, after(check, F), has_been_up=True) is W


def test_startup_asks_of_each_check_that_it_passed_once() -> None:
    """What fails after it has started does not un-start the service."""
    check = Check(name="migrations", function=passing(), probes={"startupz"})

    assert weigh("startupz", check, after(check, F), has_been_up=False) is F
    assert weigh("startupz", check, after(check, P, F), has_been_up=True) is P


def test_statuses_are_ordered_by_severity() -> None:
    """The worst of many is their maximum."""
    assert sorted([F, P, W]) == [P, W, F]
    assert (max(P, W), max(W, F), min(P, F)) == (W, F, P)
    assert P < W <= F
    assert F > W >= W
    assert [worst(found) for found in ([], [P, P], [P, W], [F, W, P])] == [P, P, W, F]


def test_a_stale_component_is_stale_since_its_result_expired() -> None:
    """Not since somebody noticed; and it stays so until a result comes."""
    check = Check(name="redis", function=passing(), interval=10.0, timeout=3.0)
    first = advance(pending(900.0), outcome(P, 1000.0), check, expires_at=23.0)
    up = advance(first, outcome(P, 1010.0), check, expires_at=33.0)

    stale = aged(up, check, 60.0)

    assert (stale.since, stale.result, stale.consecutive_successes) == (1033.0, up.result, 0)
    assert aged(stale, check, 1e9) is stale


def test_what_a_threshold_holds_back_changes_neither_status_nor_since() -> None:
    """A pending component is pending since it was registered, a passing one since it passed."""
    check = Check(name="redis", function=passing(), failure_threshold=2, success_threshold=2)
    assert pending(900.0).since == 900.0

    once = advance(pending(900.0), outcome(P, 1000.0), check, float("inf"))
    twice = advance(once, outcome(P, 1010.0), check, float("inf"))
    shaken = advance(twice, outcome(F, 1020.0), check, float("inf"))

    assert (once.since, once.error_type) == (900.0, ErrorType.PENDING)
    assert (twice.since, twice.error_type) == (1010.0, None)
    assert (shaken.since, shaken.error_type, shaken.status) == (1010.0, None, P)
