"""What a run, a component and a probe say: the words every other layer speaks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

MAX_OBSERVATIONS: Final = 16
NO_OBSERVATIONS: Final[Mapping[str, float]] = MappingProxyType({})


class Status(StrEnum):
    """How a component or a probe is, in the words of IETF health+json; ordered by severity.

    Example:
        >>> max(Status.PASS, Status.WARN)
        <Status.WARN: 'warn'>
    """

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"

    @property
    def up(self) -> bool:
        """Whether this counts as up: everything does but `FAIL`."""
        return self is not Status.FAIL

    def __lt__(self, other: str) -> bool:
        return _SEVERITY[self] < _SEVERITY[Status(other)]

    def __le__(self, other: str) -> bool:
        return _SEVERITY[self] <= _SEVERITY[Status(other)]

    def __gt__(self, other: str) -> bool:
        return _SEVERITY[self] > _SEVERITY[Status(other)]

    def __ge__(self, other: str) -> bool:
        return _SEVERITY[self] >= _SEVERITY[Status(other)]


_SEVERITY: Final = {Status.PASS: 0, Status.WARN: 1, Status.FAIL: 2}


class ErrorType(StrEnum):
    """Why a component is not simply passing: a closed set, safe to show to anyone."""

    FAILED = "failed"
    """The check function raised, or returned False."""
    TIMEOUT = "timeout"
    """The run did not end by its deadline."""
    HUNG = "hung"
    """An earlier run is still alive past its deadline, so no new one was started."""
    SATURATED = "saturated"
    """No thread came free within the timeout."""
    INVALID_RESULT = "invalid_result"
    """The check function returned something that is neither a pass nor a fail."""
    PENDING = "pending"
    """The check has not been decided yet."""
    STALE = "stale"
    """The last result is too old to be believed."""
    DEGRADED = "degraded"
    """The check function raised `Degraded`."""
    SLOW = "slow"
    """The run passed, but took longer than `warn_after`."""


class TaskState(StrEnum):
    """What a supervised task is doing."""

    RUNNING = "running"
    RESTARTING = "restarting"
    """It has ended, and waits for its next start."""
    GAVE_UP = "gave_up"
    """It has ended, and is started no more."""
    FINISHED = "finished"
    """It has ended as it was meant to."""


class RecoveryState(StrEnum):
    """How the recovery of a component stands."""

    IDLE = "idle"
    """There is nothing to recover."""
    RUNNING = "running"
    """An action is under way."""
    WAITING = "waiting"
    """The component still fails; another action may follow."""
    GAVE_UP = "gave_up"
    """The component still fails, and nothing follows until it is up again."""


class RecoveryOutcome(StrEnum):
    """How a recovery action ended."""

    SUCCEEDED = "succeeded"
    """It returned; whether it helped, the next run of the check tells."""
    FAILED = "failed"
    """It raised, or returned False."""
    TIMEOUT = "timeout"
    """It did not end in time."""
    HUNG = "hung"
    """It has not ended since the last time, so it was not begun."""
    SATURATED = "saturated"
    """No thread came free for it."""


made: Final = tuple.__new__
"""Makes a named tuple of all its fields, in a third of the time that its class takes."""


# Two of these are made for each run: a named tuple is as frozen as a dataclass, and made in half the time.
class CheckResult(NamedTuple):
    """The raw outcome of one run, before thresholds."""

    component: str
    status: Status
    duration: float | None
    """Seconds; None for an attempt that started nothing (`hung`, `saturated`)."""
    checked_at: float
    """When the run ended: seconds since the Unix epoch, for display only."""
    error_type: ErrorType | None = None
    message: str | None = None
    """Already redacted, at most 1 KiB."""
    observations: Mapping[str, float] = NO_OBSERVATIONS
    exception_type: str | None = None
    """The class name of what was raised where `error_type` is `failed`: for telemetry and authorised callers."""

    @property
    def refined_error_type(self) -> str | None:
        """The exception's class name where there is one, else the error type."""
        return self.exception_type or self.error_type


class Recovery(NamedTuple):
    """What was done to recover a component, where its check has a recovery action."""

    state: RecoveryState = RecoveryState.IDLE
    attempts: int = 0
    """Within the last ten minutes."""
    action: str | None = None
    """What was done last."""
    outcome: RecoveryOutcome | None = None
    """How that ended."""
    message: str | None = None
    """Already redacted."""
    attempted_at: float | None = None
    """When it began: seconds since the Unix epoch, for display only."""


class ComponentState(NamedTuple):
    """What is held to be true of a component now: thresholds applied, age considered."""

    status: Status
    since: float
    """When it took this status: seconds since the Unix epoch, for display only."""
    result: CheckResult | None = None
    """The last raw result; None while nothing has run."""
    consecutive_failures: int = 0
    error_type: ErrorType | None = None
    consecutive_successes: int = 0
    expires_at: float = float("inf")
    """When this state stops being believed: seconds on the monotonic clock."""
    recovery: Recovery | None = None
    """Where its check has a recovery action."""

    @property
    def decided(self) -> bool:
        """Whether results have decided the status; a pending or stale component is not."""
        return self.error_type is not ErrorType.PENDING and self.error_type is not ErrorType.STALE


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The answer of one probe: a status, and the component states behind it."""

    probe: str
    status: Status
    components: Mapping[str, ComponentState]
    expires_at: float
    """When the first of these states stops being believed: seconds on the monotonic clock."""

    @property
    def statuses(self) -> dict[str, Status]:
        """The status of each component by its name."""
        return {name: state.status for name, state in self.components.items()}


@dataclass(frozen=True, slots=True)
class Transition:
    """A component took another status, or went stale."""

    component: str
    before: Status | None
    """None for the first decision."""
    after: Status
    state: ComponentState
