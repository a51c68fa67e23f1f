"""The one state: every registered check with what is held to be true of it. Read from any thread."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import MappingProxyType
from typing import NamedTuple

from otel_health import state as states
from otel_health.check import LIVEZ, READYZ, STANDARD_PROBES, STARTUPZ, Check, judge
from otel_health.history import Particulars, remembered
from otel_health.instant import Instant
from otel_health.names import COMPONENT
from otel_health.report import (
    CheckResult,
    ComponentState,
    ErrorType,
    HealthReport,
    Recovery,
    Status,
    TaskState,
    Transition,
)
from otel_health.run import Ended, Slot

MAX_EXCEPTION_TYPES = 20
"""Different class names told apart for one component; any further one is `other`."""


MAX_UNTOLD = 1000
"""Changes of gates and heartbeats that wait for a loop on which they may be told, before the oldest are forgotten."""


class Component:
    """One registered check, its place of execution and its state."""

    def __init__(self, check: Check, slot: Slot, now: float) -> None:
        self.check = check
        self.fresh_for = check.fresh_for
        self.slot = slot
        self.instant = check.function if isinstance(check.function, Instant) else None
        """What may be judged by anybody at any time, where the check is of that kind."""
        self.watcher: Callable[[], None] | None = None
        self.state = states.pending(time.time())
        if self.instant is not None:
            self.state = self.state._replace(expires_at=self.instant.expires_at)
        if check.recover is not None:
            self.state = self.state._replace(recovery=Recovery())
        self.finished = float("-inf")
        """When the last result came: monotonic seconds; never, once somebody has asked for a new one."""
        self.arrived = float("-inf")
        """When the result came that the state is made of: monotonic seconds."""
        self.changed_at = now
        """When the status last changed: monotonic seconds."""
        self.last_run: float | None = None
        self.last_success: float | None = None
        self.runs = b""
        """The last runs, as `history` keeps them."""
        self.attributes = {COMPONENT: check.name}
        self.prepared: object = None
        self.registered = False
        self.renewing = False
        self.ended: Ended | None = None
        """Called when a run of it has ended; made at its first renewal."""
        self.again = False
        """Somebody asked for another run while one was under way."""
        self.rounds: list[Callable[[], None]] | None = None
        """Whom to tell when the run that is under way has ended."""
        self.has_been_up = False
        self.slow = False
        self.exception_types: set[str] = set()

    @property
    def name(self) -> str:
        """The name of the check, which is the name of the component."""
        return self.check.name

    @property
    def optional(self) -> bool:
        """Whether an instance stays in service without it: no probe fails of those that decide about that."""
        probes = self.check.probes
        decides = READYZ in probes or LIVEZ in probes or (STARTUPZ in probes and not self.has_been_up)
        return not (decides and self.check.critical)

    @property
    def abandoned_runs(self) -> int:
        """How many runs outlived their deadline and are still alive."""
        return self.slot.abandoned_runs

    @property
    def task_state(self) -> TaskState | None:
        """What the supervised task is doing, where the component is one."""
        return None if self.instant is None else self.instant.task_state

    def aged(self, now: float) -> ComponentState:
        """The state as it is at `now`."""
        state = self.state
        if now < state.expires_at:
            return state
        return states.aged(state, self.check, now) if self.instant is None else self._looked_at(self.instant)

    def _looked_at(self, instant: Instant) -> ComponentState:
        held = self.state
        # Whoever is told that it fails is not to be told so again after the next beat.
        instant.held(self, up=False)
        if instant.pending:
            return held
        expires_at = instant.expires_at
        look = Look(instant)
        result = judge(self.check, look, time.time())
        return states.advance(held, result, self.check, expires_at if result.status.up else float("inf"))

    def refine(self, result: CheckResult) -> CheckResult:
        """Bound the exception names this component tells apart."""
        name = result.exception_type
        if name is None or name in self.exception_types:
            return result
        if len(self.exception_types) < MAX_EXCEPTION_TYPES:
            self.exception_types.add(name)
            return result
        return result._replace(exception_type="other")


class Look:
    """How a check function ended that was called at once."""

    reason: ErrorType | None = None
    blocked = 0.0

    def __init__(self, instant: Instant) -> None:
        self.value: object = None
        self.exception: BaseException | None = None
        self.timeout = 0.0
        begun = time.perf_counter()
        try:
            self.value = instant()
        except BaseException as raised:  # noqa: BLE001 - as in a run: every ending is a result.
            self.exception = raised
        self.duration: float | None = time.perf_counter() - begun


class Taken(NamedTuple):
    """What came of judging a component at once."""

    result: CheckResult
    exception: BaseException | None
    transition: Transition | None
    outage: float
    """Seconds for which the component had failed until now."""


class Registry:
    """Components by name, and what each probe sees of them.

    Args:
        clock: Monotonic seconds.
        noticed: Called, from any thread, when a reader finds components stale before anybody else did.
    """

    def __init__(self, clock: Callable[[], float], noticed: Callable[[], None]) -> None:
        self._clock = clock
        self._noticed = noticed
        # A collection of garbage may turn a gate while this thread holds the lock.
        self._lock = threading.RLock()
        self._components: dict[str, Component] = {}
        self._by_probe: dict[str, tuple[Component, ...]] = {}
        self._own_probes: set[str] = set()
        self._started = False
        self._speaker: Component | None = None
        self.untold: deque[tuple[Component, Taken]] = deque(maxlen=MAX_UNTOLD)
        """What came of judging components at once, until it is told on the loop."""
        # Counted in one step, since components may change in several threads.
        self._versions = itertools.count(1)
        self.version = 0
        """Grows with every change that an anonymous answer could show."""

    def forked(self) -> None:
        """Have a lock that nobody holds, and nothing under way; what is known keeps its age."""
        self._lock = threading.RLock()
        self._by_probe = {}
        self.version = next(self._versions)
        for component in self:
            component.renewing, component.again, component.rounds = False, False, None
            component.slot.forked()
            if component.instant is not None:
                component.instant.forked()

    def __len__(self) -> int:
        return len(self._components)

    def __iter__(self) -> Iterator[Component]:
        return iter(list(self._components.values()))

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._components

    def add(self, component: Component) -> None:
        """Register a component.

        Raises:
            ValueError: Its name is taken (case does not tell names apart).
        """
        key = component.name.casefold()
        with self._lock:
            if key in self._components:
                taken = self._components[key].check.name
                raise ValueError(
                    f"a check named {taken!r} is already registered; choose another name or remove that one first"
                )
            self._components[key] = component
            component.registered = True
            self._own_probes |= set(component.check.probes).difference(STANDARD_PROBES)
            self._by_probe = {}
            self.version = next(self._versions)

    def remove(self, name: str) -> Component:
        """Forget a component; what is still running for it will be dropped."""
        with self._lock:
            component = self.get(name)
            component.registered = False
            if component.instant is not None:
                component.instant.held(component, up=True)
            if component is self._speaker:
                self._speaker = None
            del self._components[name.casefold()]
            self._by_probe = {}
            self.version = next(self._versions)
        self._latch()
        return component

    def get(self, name: str) -> Component:
        """Return the component of that name.

        Raises:
            KeyError: There is none.
        """
        component = self._components.get(name.casefold())
        if component is None:
            known = ", ".join(sorted(self.names)) or "none"
            raise KeyError(f"no check is named {name!r}; registered: {known}")
        return component

    def let_speak(self, name: str) -> None:
        """Leave it to one component, while it is registered, to fail livez for all that are stale."""
        with self._lock:
            self._speaker = self.get(name)
            self.version = next(self._versions)

    def name_of(self, slot: Slot) -> str | None:
        """The name of the component whose place this is, or `<component>.<child>` for one within a composite."""
        for component in self:
            path = component.slot.path_to(slot)
            if path is not None:
                return ".".join((component.name, *path))
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of their registration."""
        return tuple(component.name for component in self)

    @property
    def probes(self) -> tuple[str, ...]:
        """The four standard probes, then those that checks were ever registered for."""
        return (*STANDARD_PROBES, *sorted(self._own_probes))

    def asked_by(self, probe: str) -> tuple[Component, ...]:
        """The components that a probe asks.

        Raises:
            ValueError: No check was ever registered for this probe, and it is no standard one.
        """
        by_probe = self._by_probe
        asked = by_probe.get(probe)
        if asked is None:
            asked = tuple(component for component in self if component.check.asked_by(probe))
            if probe not in STANDARD_PROBES and probe not in self._own_probes:
                raise ValueError(f"no check is registered for a probe {probe!r}; known: {', '.join(self.probes)}")
            by_probe[probe] = asked
        return asked

    def report(self, probe: str, exclude: Collection[str] = ()) -> HealthReport:
        """The answer of a probe as things stand."""
        asked = self.asked_by(probe)
        if exclude:
            asked = tuple(component for component in asked if component.name not in exclude)
        found = self._aged(asked)
        expires_at = min((state.expires_at for _, state in found), default=float("inf"))
        components = MappingProxyType({component.name: state for component, state in found})
        return HealthReport(probe, self._verdict(probe, found), components, expires_at)

    def status(self, probe: str) -> Status:
        """The status of a probe as things stand."""
        return self._verdict(probe, self._aged(self.asked_by(probe)))

    def _verdict(self, probe: str, found: Iterable[tuple[Component, ComponentState]]) -> Status:
        if probe == STARTUPZ and self._started:
            return Status.PASS
        return states.worst(
            # A pass is a pass in every probe.
            state.status
            if state.status is Status.PASS
            else states.weigh(
                probe,
                component.check,
                state,
                has_been_up=component.has_been_up,
                spoken_for=self._speaker not in (None, component),
            )
            for component, state in found
        )

    def _aged(self, components: Iterable[Component]) -> list[tuple[Component, ComponentState]]:
        """These components with their states as they are now; the first to notice one stale has it made official."""
        now = self._clock()
        found = [(component, component.aged(now)) for component in components]
        if any(component.state is not state for component, state in found):
            self._noticed()
        return found

    def expires_at(self, probe: str) -> float:
        """When the first state of those that a probe asks stops being believed."""
        return min((component.state.expires_at for component in self.asked_by(probe)), default=float("inf"))

    def report_one(self, probe: str, name: str) -> HealthReport | None:
        """The answer for one component by its own status; None where the probe does not ask it."""
        for component in self.asked_by(probe):
            if component.name == name:
                state = self._aged((component,))[0][1]
                excused = states.excused(probe, state, spoken_for=self._speaker not in (None, component))
                status = Status.PASS if excused else state.status
                return HealthReport(probe, status, MappingProxyType({name: state}), state.expires_at)
        return None

    def particulars(self, name: str) -> Particulars | None:
        """What is known of a component beside its state; None where there is none of that name."""
        component = self._components.get(name.casefold())
        if component is None:
            return None
        return Particulars(component.check.critical, component.last_success, component.runs)

    def states(self) -> list[tuple[Component, ComponentState]]:
        """Every component with its state as it is now."""
        return self._aged(list(self._components.values()))

    def take(self, component: Component) -> None:
        """Judge a component at once, in this thread; what came of it is left to be told."""
        instant = component.instant
        with self._lock:
            if instant is None or not component.registered:
                return
            instant.held(component, up=False)
            held, now = component.state, self._clock()
            # In this order: a beat that comes in between is then looked at once too often, never too late.
            expires_at = instant.expires_at
            if instant.pending:
                component.state = held._replace(expires_at=expires_at)
                if expires_at < held.expires_at:
                    self.version = next(self._versions)
                return
            look = Look(instant)
            result = component.refine(judge(component.check, look, time.time()))
            failing_since = component.changed_at if held.decided and not held.status.up else now
            believed = expires_at if result.status.up else float("inf")
            transition = self.apply(component, result, now, believed)
            instant.held(component, up=result.status.up)
            # Under the lock, so that transitions are told in the order in which they came.
            self.untold.append((component, Taken(result, look.exception, transition, now - failing_since)))

    def apply(
        self, component: Component, result: CheckResult, finished: float, believed_until: float | None = None
    ) -> Transition | None:
        """Take in one result; the transition it caused, if any.

        Args:
            component: Whose result it is.
            result: The result.
            finished: When it came: monotonic seconds.
            believed_until: When it stops being believed, where its check says so; else by its age.
        """
        held = aged = component.state
        if believed_until is None:
            believed_until = finished + component.fresh_for
            if finished >= held.expires_at:
                aged = states.aged(held, component.check, finished)
        after = states.advance(aged, result, component.check, believed_until)
        component.finished = component.arrived = finished
        component.runs = remembered(component.runs, result)
        if result.duration is not None:
            component.last_run = result.checked_at
            if result.status is not Status.FAIL:
                component.last_success = result.checked_at
        if not component.has_been_up and after.decided and after.status.up:
            component.has_been_up = True
            self._latch()
        if after.status is held.status and after.error_type is held.error_type:
            component.state = after
            if finished >= held.expires_at or believed_until < held.expires_at:
                # Somebody may have been answered by the expiry, or believe for too long what was shown.
                self.version = next(self._versions)
            return None
        return self._commit(component, held, after, finished)

    def show(self, component: Component, recovery: Recovery) -> None:
        """Have the component's state say how its recovery stands."""
        with self._lock:
            component.state = component.state._replace(recovery=recovery)

    def expire(self) -> list[Transition]:
        """Make what has gone stale official; the transitions this caused."""
        now = self._clock()
        expired = []
        for component in self:
            held = component.state
            if now >= held.expires_at and component.instant is None:
                expired.append(self._commit(component, held, component.aged(now), held.expires_at))
        return [transition for transition in expired if transition is not None]

    def overdue(self) -> list[Component]:
        """The components to be judged at once whose last verdict has run out."""
        now = self._clock()
        return [each for each in self if each.instant is not None and now >= each.state.expires_at]

    def _commit(
        self, component: Component, held: ComponentState, after: ComponentState, at: float
    ) -> Transition | None:
        component.state = after
        self.version = next(self._versions)
        before = None if held.error_type is ErrorType.PENDING else held.status
        went_stale = after.error_type is ErrorType.STALE
        if before is after.status and not went_stale:
            return None
        if after.status is not held.status:
            component.changed_at = at
        return Transition(component.name, before, after.status, after)

    def _latch(self) -> None:
        if not self._started:
            asked = self.asked_by(STARTUPZ)
            if asked and all(component.has_been_up for component in asked):
                self._started = True
                self.version = next(self._versions)
