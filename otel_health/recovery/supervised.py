"""What is known of a supervised task, and what its component says of it."""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from otel_health.check import Degraded, Failed, require_bool, require_count, require_seconds
from otel_health.instant import Instant
from otel_health.recovery.life import Life, Work
from otel_health.redaction import describe, redact
from otel_health.report import TaskState
from otel_health.schedule import backoff

BELIEVED_SECONDS: Final = 30.0
"""How long a task is believed to run after its supervisor was last heard of."""

MAX_ERROR_TYPES: Final = 20
"""Class names of exceptions told apart for one task; any further one is `other`."""

TOLD_CRASHES: Final = 5
"""Crashes in a row of which each has a line in the log; of what follows one has a line in each `TOLD_EVERY` seconds."""

TOLD_EVERY: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a task is started anew. See `Supervisor.start` for the meaning of its options."""

    restart_delay: float
    max_restart_delay: float
    healthy_after: float
    max_restarts: int | None
    fail_after: float
    may_finish: bool

    def require(self, subject: str) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: An option is out of its range.
        """
        for option in ("restart_delay", "max_restart_delay", "healthy_after", "fail_after"):
            require_seconds(subject, option, getattr(self, option))
        if self.max_restart_delay < self.restart_delay:
            raise ValueError(
                f"{subject}: max_restart_delay={self.max_restart_delay!r} is below restart_delay="
                f"{self.restart_delay!r}; make it larger"
            )
        if self.max_restarts is not None:
            require_count(subject, "max_restarts", self.max_restarts)
        require_bool(subject, "may_finish", self.may_finish)


class Standing(NamedTuple):
    """How a task stands; replaced as a whole, so that no thread ever sees half a change."""

    state: TaskState | None = None
    """None until it is first started."""
    well_at: float = math.inf
    """From when it counts as well, if it goes on running until then."""
    lost_at: float = -math.inf
    """When it was last well, before it crashed; never, if it has not been well yet."""
    again_at: float = math.inf
    """When it is started again."""
    why: str = ""
    """What ended it last."""


class Supervised(Instant):
    """A supervised task: passes while it runs, warns while it is started anew, fails when that takes too long.

    Args:
        name: The name of its component.
        work: What is supervised.
        policy: How it is started anew.
        context: The context variables that each life of it sees a copy of.
        clock: Monotonic seconds; the Checker's own.
        heard_of: When the supervisor was last heard of, on that clock.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        policy: Policy,
        context: Context,
        clock: Callable[[], float],
        heard_of: Callable[[], float],
    ) -> None:
        super().__init__()
        self.name = name
        self.restarts = 0
        """How often it was started anew."""
        self.crashes = 0
        """How often it crashed since it was last healthy."""
        self.delay = policy.restart_delay
        """Seconds that it has to run to be well."""
        self.life: Life | None = None
        """What lives of it, if anything does."""
        self.supervision: asyncio.Task[None] | None = None
        self.again: asyncio.Event
        """Set to have it started anew at once."""
        self.begun: asyncio.Event
        """Set when it has been."""
        self.policy = policy
        self._work = work
        self._context = context
        self._clock = clock
        self._heard_of = heard_of
        self._began_at = 0.0
        self._error_types: set[str] = set()
        self._told_at = -math.inf
        self._untold = 0
        self._standing = Standing()

    # Its life, on the loop.

    def begin(self) -> Life:
        """Start it."""
        self.again.clear()
        self.begun.set()
        standing = self._standing
        self._began_at = self._clock()
        # Started anew by hand: it was well until now.
        well = standing.state is TaskState.RUNNING and self._began_at >= standing.well_at
        lost_at = self._began_at if well else standing.lost_at
        self.life = Life(self.name, self._work, self._context.copy())
        # It has to run for as long as was waited for it, so that one that crashes again and again is not well between.
        self._stand(TaskState.RUNNING, well_at=self._began_at + self.delay, lost_at=lost_at)
        return self.life

    def crashed(self, error: BaseException | None) -> float | None:
        """Take note that it has ended though it should not; the seconds until its next start, None if there is none."""
        now, policy = self._clock(), self.policy
        if now - self._began_at >= policy.healthy_after:
            self.crashes = 0
        self.crashes += 1
        lost_at = now if now >= self._standing.well_at else self._standing.lost_at
        if policy.max_restarts is not None and self.crashes > policy.max_restarts:
            self.give_up(f"crashed {_times(self.crashes)}, last: {why(error)}")
            return None
        self.delay = backoff(self.crashes, first=policy.restart_delay, most=policy.max_restart_delay)
        self._stand(TaskState.RESTARTING, lost_at=lost_at, again_at=now + self.delay, why=why(error))
        return self.delay

    def give_up(self, reason: str) -> None:
        """Take note that nobody starts it anew."""
        self._stand(TaskState.GAVE_UP, why=reason)

    def finish(self) -> None:
        """Take note that it has ended as it was meant to."""
        self._stand(TaskState.FINISHED)

    def ask_again(self) -> None:
        """Have it started anew as soon as it has ended, which it is asked to."""
        self.begun.clear()
        self.again.set()
        if self.life is not None:
            self.life.cancel()

    def forgive(self) -> None:
        """Forget its crashes."""
        self.crashes = 0
        self.delay = self.policy.restart_delay

    def forget(self) -> None:
        """Be as if it had never been started."""
        self.life = self.supervision = None
        self.forgive()
        self._standing = Standing()

    def _stand(self, state: TaskState, **changes: Any) -> None:
        held = self._standing
        self._standing = Standing(state, lost_at=held.lost_at, why=held.why)._replace(**changes)
        self.changed()

    # What is told of it.

    def error_type(self, error: BaseException | None) -> str:
        """The class of what ended it, for a label: bounded in number."""
        name = "returned" if error is None else redact(type(error).__name__)
        if name not in self._error_types and len(self._error_types) >= MAX_ERROR_TYPES:
            return "other"
        self._error_types.add(name)
        return name

    def untold(self) -> int | None:
        """How many crashes were not told of before this one; None if it is not to be told of, either."""
        now = self._clock()
        if self.crashes > TOLD_CRASHES and now - self._told_at < TOLD_EVERY:
            self._untold += 1
            return None
        untold, self._untold, self._told_at = self._untold, 0, now
        return untold

    # What its component says.

    @property
    def task_state(self) -> TaskState | None:  # type: ignore[override]
        """What it is doing; None until it is first started."""
        return self._standing.state

    @property
    def mendable(self) -> bool:  # type: ignore[override]
        """Whether nobody but a recovery action starts it anew."""
        return self._standing.state is TaskState.GAVE_UP

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """Whether it has not yet run for as long as it has to, and has not crashed either."""
        state, well_at, lost_at, _, why = self._standing
        return state is None or (
            state is TaskState.RUNNING and lost_at == -math.inf and not why and self._clock() < well_at
        )

    @property
    def expires_at(self) -> float:  # type: ignore[override]
        """When something else is to be said of it, if nothing happens until then."""
        state, well_at, lost_at, _, _ = self._standing
        if state not in (TaskState.RUNNING, TaskState.RESTARTING):
            return math.inf
        now = self._clock()
        believed_until = self._heard_of() + BELIEVED_SECONDS
        return min(believed_until, *(at for at in (well_at, lost_at + self.policy.fail_after) if now < at), math.inf)

    def __call__(self) -> dict[str, float]:
        """Pass while it runs, or has finished.

        Raises:
            Degraded: It has crashed, and is being started anew.
            Failed: That takes too long, it is started no more, or nobody looks after it.
        """
        standing, now = self._standing, self._clock()
        state, restarts = standing.state, self.restarts
        if state is TaskState.FINISHED:
            return {"restarts": restarts}
        if state is TaskState.GAVE_UP:
            raise Failed(f"gave up: {standing.why}", restarts=restarts)
        silent = now - self._heard_of()
        if silent >= BELIEVED_SECONDS:
            raise Failed(f"its supervisor has not been heard of for {silent:.1f} s", restarts=restarts)
        if state is TaskState.RUNNING and now >= standing.well_at:
            return {"restarts": restarts}
        if state is TaskState.RUNNING:
            reason = f"runs again for {now - self._began_at:.1f} s"
        else:
            reason = f"starts again in {max(standing.again_at - now, 0.0):.1f} s"
        if self.crashes:
            reason = f"crashed {_times(self.crashes)}, {reason}; last: {standing.why}"
        outcome = Failed if now - standing.lost_at >= self.policy.fail_after else Degraded
        raise outcome(reason, restarts=restarts)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def why(error: BaseException | None) -> str:
    """What ended it, in words."""
    return "it returned" if error is None else f"{redact(type(error).__name__)}: {describe(error)}"
