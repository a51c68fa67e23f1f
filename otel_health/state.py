"""How results become state: thresholds, freshness and the verdict of a probe. Pure functions of their arguments."""

from collections.abc import Iterable

from otel_health.check import LIVEZ, STARTUPZ, Check
from otel_health.report import CheckResult, ComponentState, ErrorType, Status, made


def pending(since: float) -> ComponentState:
    """Return the state of a component that nothing is known of yet."""
    return ComponentState(Status.FAIL, since, error_type=ErrorType.PENDING)


def aged(state: ComponentState, check: Check, now: float) -> ComponentState:
    """Return the state as it is at `now` (monotonic seconds): stale once its result is too old to be believed.

    A stale component is undecided, as a pending one is: it forgets its successes, and its next failure fails it
    without a threshold, for a verdict nobody stood by for two intervals is no reason to say up.
    """
    if now < state.expires_at:
        return state
    checked_at = state.result.checked_at if state.result is not None else state.since
    return state._replace(
        status=Status.FAIL,
        since=checked_at + check.fresh_for,
        error_type=ErrorType.STALE,
        consecutive_successes=0,
        expires_at=float("inf"),
    )


def advance(state: ComponentState, result: CheckResult, check: Check, expires_at: float) -> ComponentState:
    """Return the state after one more result.

    The reference model: a warn counts as success; an up component fails at `failure_threshold` consecutive
    failures; one that is not up is up again at `success_threshold` consecutive successes; an undecided one
    (pending or stale) fails at its first failure. Pass to warn and back is immediate.
    """
    status, since, _, failures, error_type, successes, _, recovery = state
    decided = error_type is not ErrorType.PENDING and error_type is not ErrorType.STALE
    was_up = decided and status is not Status.FAIL
    if result.status is not Status.FAIL:
        failures, successes = 0, successes + 1
        turns = was_up or successes >= check.success_threshold
    else:
        failures, successes = failures + 1, 0
        turns = not was_up or failures >= check.failure_threshold
    if turns:
        if not decided or result.status is not status:
            since = result.checked_at
        status, error_type = result.status, result.error_type
    return made(ComponentState, (status, since, result, failures, error_type, successes, expires_at, recovery))


def weigh(probe: str, check: Check, state: ComponentState, *, has_been_up: bool, spoken_for: bool = False) -> Status:
    """Return what one component contributes to a probe.

    `livez` fails only on what a restart may mend: never because nothing was decided yet or no thread was free.
    `startupz` asks of each check only that it has passed once.
    """
    if state.status is not Status.FAIL:
        return state.status
    if (probe == STARTUPZ and has_been_up) or excused(probe, state, spoken_for=spoken_for):
        return Status.PASS
    return Status.FAIL if check.critical else Status.WARN


def excused(probe: str, state: ComponentState, *, spoken_for: bool = False) -> bool:
    """Whether this state is none that a liveness probe may fail on.

    Args:
        probe: Which probe.
        state: A component's state, as it is now.
        spoken_for: Whether another component says, in its place, when it has been silent for too long.
    """
    silent = spoken_for and state.error_type is ErrorType.STALE
    return probe == LIVEZ and (silent or state.error_type in (ErrorType.PENDING, ErrorType.SATURATED))


def worst(statuses: Iterable[Status]) -> Status:
    """Return the most severe status; with none, a pass."""
    found = set(statuses)
    for status in (Status.FAIL, Status.WARN):
        if status in found:
            return status
    return Status.PASS
