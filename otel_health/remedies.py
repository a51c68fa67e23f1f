"""Recovery actions: taken when a component is confirmed to have failed, one at a time, few in all."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, cast
from weakref import WeakKeyDictionary

from otel_health import names
from otel_health.check import CheckFunc
from otel_health.execution import Runner
from otel_health.ladder import MAX_ATTEMPTS, WINDOW, Action, required_failing, steps_of, title_of
from otel_health.redaction import describe, redact
from otel_health.registry import Component, Registry
from otel_health.report import CheckResult, ErrorType, Recovery, RecoveryOutcome, RecoveryState
from otel_health.run import Run, Slot
from otel_health.schedule import spread

PAUSES: Final = (30.0, 120.0, 30.0)
"""Seconds after each attempt before the next one, or, after the last one, before it is given up; plus or minus 20 %."""

CONFIRMED: Final = frozenset({ErrorType.FAILED, ErrorType.TIMEOUT, ErrorType.HUNG})
"""What says that the component has failed, and not that nothing is known of it, or that its check is wrong."""


class Telling(Protocol):
    """How an attempt is told of."""

    def __call__(
        self, level: int, message: str, *arguments: object, attributes: Mapping[str, object] | None = None
    ) -> None: ...


class Attempts:
    """What was done for one component lately."""

    def __init__(self, steps: tuple[Action, ...]) -> None:
        self.steps = steps
        self.slots: dict[int, Slot] = {}
        """Where each step is taken: it is never taken again while it lives, however long that is."""
        self.begun: deque[float] = deque(maxlen=MAX_ATTEMPTS)
        """When the last attempts began, on the Checker's clock."""
        self.step = 0
        """The next step's index: those before it did not help since the component was last up."""
        self.running = False
        self.not_before = float("-inf")
        self.gave_up = False

    @property
    def index(self) -> int:
        """Which step is to be taken; the last one is repeated."""
        return min(self.step, len(self.steps) - 1)

    def within(self, now: float) -> int:
        """How many were begun within the last ten minutes."""
        while self.begun and self.begun[0] <= now - WINDOW:
            self.begun.popleft()
        return len(self.begun)


class Remedies:
    """Takes the recovery actions of all components, with the Runner that runs their checks.

    Args:
        runner: Ends an action by its deadline, and leaves behind one that does not end.
        registry: Whose components they are.
        may: Whether anything may be mended now.
        renew: Has the check of a component run now.
        count: Counts, by counter, component and further attributes.
        tell: Logs.
    """

    def __init__(
        self,
        runner: Runner,
        registry: Registry,
        may: Callable[[Component], bool],
        renew: Callable[[Component], None],
        count: Callable[..., None],
        tell: Telling,
    ) -> None:
        self._runner = runner
        self._registry = registry
        self._may = may
        self._renew = renew
        self._count = count
        self._tell = tell
        self._attempts: WeakKeyDictionary[Component, Attempts] = WeakKeyDictionary()

    def consider(self, component: Component, result: CheckResult) -> None:
        """Look at what a run has brought, on the loop: does anything have to be mended, and may it be?"""
        if component.check.recover is None:
            return
        attempts = self._of(component)
        if component.state.status.up:
            self._relieve(component, attempts)
            return
        now = self._runner.clock()
        if attempts.running or attempts.gave_up or now < attempts.not_before or not confirmed(component, result):
            return
        failing_for = now - component.changed_at
        if not self._may(component) or failing_for < required_failing(attempts.steps[attempts.index]):
            return
        if attempts.within(now) < MAX_ATTEMPTS:
            attempts.running = True
            # Not within the verdict of the run: what the action does is none of the check's.
            self._runner.loop.call_soon(self._begin, component, attempts)
        else:
            attempts.gave_up = True
            self._show(component, attempts, RecoveryState.GAVE_UP)
            self._say(logging.ERROR, component, "%s: recovery gives up: there were %d attempts in %g minutes",
                      len(attempts.begun), WINDOW / 60)  # fmt: skip

    def reset(self) -> None:
        """Forget what is under way: the loop it was under way on is gone, or has been left."""
        for component, attempts in list(self._attempts.items()):
            if attempts.running:
                attempts.running = False
                self._show(component, attempts, RecoveryState.WAITING)

    def forked(self) -> None:
        """Leave what is under way to the parent, in a forked child."""
        for attempts in list(self._attempts.values()):
            for slot in attempts.slots.values():
                slot.forked()
        self.reset()

    def drop(self, component: Component) -> None:
        """Want no more of a component that was removed."""
        for slot in self._of(component).slots.values():
            if slot.run is not None:
                slot.run.cancel()

    def _relieve(self, component: Component, attempts: Attempts) -> None:
        attempts.gave_up = False
        attempts.step = 0
        recovery = component.state.recovery
        if recovery is not None and not attempts.running and recovery.state is not RecoveryState.IDLE:
            self._show(component, attempts, RecoveryState.IDLE)

    def _begin(self, component: Component, attempts: Attempts) -> None:
        if not (component.registered and self._may(component)):
            attempts.running = False
            return
        now = self._runner.clock()
        number = attempts.within(now)
        attempts.begun.append(now)
        index = attempts.index
        attempts.step += 1
        action = attempts.steps[index]
        if index not in attempts.slots:
            attempts.slots[index] = Slot(self._runner, cast("CheckFunc", action), local=False)
        self._show(component, attempts, RecoveryState.RUNNING, action=title_of(action), attempted_at=time.time())
        self._say(logging.WARNING, component, "%s: recovery attempt %d of %d begins: %s",
                  number + 1, MAX_ATTEMPTS, title_of(action))  # fmt: skip
        self._runner.start(
            attempts.slots[index], component.check.recover_within, partial(self._ended, component, attempts)
        )

    def _ended(self, component: Component, attempts: Attempts, run: Run) -> None:
        attempts.running = False
        if not component.registered:
            return
        if run.withdrawn:
            self._show(component, attempts, RecoveryState.WAITING)
            return
        attempts.not_before = self._runner.clock() + spread(PAUSES[len(attempts.begun) - 1])
        outcome, message = _outcome(run)
        # Its traceback holds the run, and would keep both until the garbage collector came by.
        run.exception = None
        self._count(names.RECOVERY_ATTEMPTS, component.name, outcome=outcome.value)
        up = component.state.status.up
        state = RecoveryState.IDLE if up else RecoveryState.WAITING
        self._show(component, attempts, state, outcome=outcome, message=message)
        succeeded = outcome is RecoveryOutcome.SUCCEEDED
        self._say(
            logging.INFO if succeeded else logging.ERROR,
            component,
            "%s: the recovery attempt has %s%s",
            "succeeded; the check tells whether it helped" if succeeded else f"ended as {outcome}",
            f": {message}" if message else "",
            **{names.EVENT_OUTCOME: outcome.value},
        )
        if succeeded:
            self._renew(component)

    def _of(self, component: Component) -> Attempts:
        attempts = self._attempts.get(component)
        if attempts is None:
            attempts = self._attempts[component] = Attempts(steps_of(component.check.recover))
        return attempts

    def _show(self, component: Component, attempts: Attempts, state: RecoveryState, **changes: Any) -> None:
        held = component.state.recovery or Recovery()
        number = attempts.within(self._runner.clock())
        self._registry.show(component, held._replace(state=state, attempts=number, **changes))

    def _say(self, level: int, component: Component, message: str, *arguments: object, **attributes: object) -> None:
        self._tell(
            level, message, component.name, *arguments,
            attributes={names.EVENT_COMPONENT: component.name, **attributes},
        )  # fmt: skip


def confirmed(component: Component, result: CheckResult) -> bool:
    """Whether a component is known to have failed, by as many runs as its threshold wants."""
    state = component.state
    return (
        state.decided
        and result.error_type in CONFIRMED
        and state.consecutive_failures >= component.check.failure_threshold
        and (component.instant is None or component.instant.mendable)
    )


def _outcome(run: Run) -> tuple[RecoveryOutcome, str | None]:
    if run.reason is not None:
        return RecoveryOutcome(run.reason.value), None
    if run.exception is not None:
        return RecoveryOutcome.FAILED, f"{redact(type(run.exception).__name__)}: {describe(run.exception)}"
    if run.value is False:
        return RecoveryOutcome.FAILED, "returned False"
    return RecoveryOutcome.SUCCEEDED, None
