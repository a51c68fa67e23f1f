"""What runs inside a Checker: from a run to its result, to the state, to the sinks."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from types import FrameType
from typing import Final, Protocol
from weakref import ref

from otel_health.check import Check, judge
from otel_health.compose import set_once
from otel_health.events import SLOW_SHARE, Events
from otel_health.execution import Runner
from otel_health.forks import leave, tell_of_forks
from otel_health.metrics import Instruments, Registered, Sampled
from otel_health.names import COMPONENT, ERROR_TYPE, REGISTRATION_FAILURES
from otel_health.quiet import quiet_context
from otel_health.registry import Component, Registry
from otel_health.remedies import Remedies
from otel_health.renewal import Renewals
from otel_health.report import CheckResult, ComponentState, ErrorType, Status, Transition
from otel_health.run import Run, Slot, run_at
from otel_health.schedule import Schedule, next_delay
from otel_health.threads import call_on

Listener = Callable[[Transition], None]

TOLD_SECONDS: Final = 0.25
"""How long `run` waits, at most, for its log lines and spans to be written."""


class Sharing(Protocol):
    """How the shared checks of one worker go together with those of its siblings; called on the loop."""

    @property
    def leads(self) -> bool:
        """Whether it is this worker that runs the shared checks, and mends what they find."""

    def wait(self, check: Check, finished: float) -> float:
        """Return for how many seconds a run may wait for a sibling's result, given when the last result came."""

    def spares(self, check: Check) -> bool:
        """Return whether a sibling's result was adopted in place of the run that is due."""

    def ran(self, check: Check) -> None:
        """Learn that a run here has brought a result."""


class Engine:
    """Runs the checks of one Checker, keeps their state, and tells the sinks of it.

    Args:
        clock: Monotonic seconds.
        ttl: Seconds after which a probe renews a result, on demand.
        instruments: The metrics of the Checker's provider.
        events: Its logs and spans.
    """

    def __init__(self, clock: Callable[[], float], ttl: float, instruments: Instruments, events: Events) -> None:
        self.now = clock
        self.events = events
        self.registry = Registry(clock, self._noticed_stale)
        self._instruments = instruments
        self._runner = Runner(clock, quiet_context())
        self._renewals = Renewals(self._runner, self.registry, ttl, self._ended, self._take)
        self._remedies = Remedies(self._runner, self.registry, self._may_mend, self._renew_now, self.count, events.note)
        self._schedule: Schedule[Component] = Schedule(clock, self._due)
        self._listeners: dict[object, Listener] = {}
        self.registrations: list[Registered] = []
        """Those that tell a service registry of the state."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiring = False
        self._closing = False
        self._sharing: Sharing | None = None
        self._hung: dict[str, Slot] = {}
        """Where runs of checks that were removed may still be alive, by the name of the check."""
        self.leaving = False
        """Whether the process is on its way out, so that nothing is to be repaired any more; a `Drain` says so."""
        tell_of_forks(self)

    # Its life.

    async def open(self) -> None:
        """Renew the checks in the background from now on, on the running loop.

        Raises:
            RuntimeError: It is open, or belongs to another loop.
            ValueError: Another open Checker of this meter provider has a check of the same name.
        """
        if self._closing or self.is_open:
            raise RuntimeError("this Checker is already open; open it once, or use a second Checker")
        self._instruments.refuse_shared(self, self.names)
        loop = self.attach()
        self._instruments.open(self)
        self._schedule.start(loop)
        for component in self.registry:
            if component.instant is not None:
                component.instant.opened()
            self._put(component, component.check.initial_delay)

    async def close(self) -> None:
        """End what runs, and let go of the loop."""
        self._closing = True
        self._schedule.stop()
        self._instruments.close(self)
        try:
            await self._runner.close()
            await self.told()
        finally:
            self._renewals.reset()
            self._remedies.reset()
            self.events.close()
            self._loop = None
            self._closing = False

    def attach(self) -> asyncio.AbstractEventLoop:
        """Belong to the running loop from now on.

        Raises:
            RuntimeError: It belongs to another loop that is open, or is being closed.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop and not self._closing:
            return loop
        if self._closing:
            raise RuntimeError("this Checker is being closed; wait for that, or use report(), which runs nothing")
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                "this Checker belongs to another event loop that is still open; use report(), which is safe from "
                "anywhere, or a Checker of this loop's own"
            )
        self._instruments.open(self)
        self._schedule.stop()
        self._runner.attach(loop)
        self._renewals.reset()
        self._remedies.reset()
        self._expiring = False
        self._loop = loop
        if self.registry.untold:
            loop.call_soon(self._tell_untold)
        return loop

    def forked(self) -> None:
        """Be closed, in a forked child: loop, threads and runs are the parent's; what is known keeps its age."""
        self.registry.forked()
        self._runner.forked()
        self._renewals.forked()
        self._remedies.forked()
        self._schedule.forked()
        self._hung.clear()
        if self._loop is not None:
            leave(self._loop)
            self.registry.untold.clear()
        self._loop = self._sharing = None
        self._expiring = self._closing = False

    # What is registered.

    def register(self, check: Check) -> Check:
        """Take in a check; an open Checker begins to renew it.

        Raises:
            ValueError: Its name is taken.
        """
        self.refuse_shared((check.name,))
        component = Component(check, self._slot(check), self.now())
        self.registry.add(component)
        if component.instant is not None:
            component.watcher = self._watcher(component)
            component.instant.watch(component.watcher)
            self._take(component)
        loop = self._loop
        if self._schedule.running and loop is not None:
            call_on(loop, self._put, component, check.initial_delay)
        return check

    def refuse_shared(self, names: Sequence[str]) -> None:
        """Refuse names that another open Checker of this meter provider has, where this one is open.

        Raises:
            ValueError: There is such a name.
        """
        if self._schedule.running:
            self._instruments.refuse_shared(self, names)

    def remove(self, name: str) -> None:
        """Forget a check; what is running for it is dropped.

        Raises:
            KeyError: There is no check of that name.
        """
        component = self.registry.remove(name)
        self._hung = {name: slot for name, slot in self._hung.items() if slot.is_held}
        if component.slot.is_held:
            self._hung[component.name.casefold()] = component.slot
        if component.instant is not None and component.watcher is not None:
            component.instant.unwatch(component.watcher)
        call_on(self._loop, self._renewals.drop, component)
        call_on(self._loop, self._remedies.drop, component)

    def _slot(self, check: Check) -> Slot:
        """Return the place of a check's runs: its own of before, if it hangs there and was only removed and added."""
        hung = self._hung.pop(check.name.casefold(), None)
        if hung is not None and hung.run is None and (hung.function, hung.local) == (check.function, check.local):
            return hung
        return Slot(self._runner, check.function, local=check.local)

    def _watcher(self, component: Component) -> Callable[[], None]:
        """Return what is called when a gate is turned.

        It keeps nobody alive: a gate may be included in many Checkers, and outlive them.
        """
        engine, watched, instant = ref(self), ref(component), component.instant

        def turned() -> None:
            told, turning = engine(), watched()
            if told is not None and turning is not None:
                told._take(turning)  # noqa: SLF001 - itself.
            elif instant is not None:
                instant.unwatch(turned)

        return turned

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener, on the loop, with each transition; the returned function unsubscribes it."""
        subscription = object()
        self._listeners[subscription] = listener
        return lambda: self._listeners.pop(subscription, None) and None

    # What is asked of it.

    def renew(self, name: str) -> None:
        """Have a check renewed now instead of at its next turn; safe from any thread.

        Raises:
            KeyError: There is no check of that name.
        """
        component = self.registry.get(name)
        if component.instant is not None:
            self._take(component)
        elif _is_running(self._loop) or not call_on(self._loop, self._renew_now, component):
            self._renew_now(component)

    def renewal(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None":
        """Renew on demand what is too old for this probe, or for one component; what to wait for, if anything."""
        return None if self._closing or self.is_open else self.renewed(probe, only)

    def renewed(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None":
        """Renew what is too old, also where that happens in the background; what to wait for, if anything."""
        self.attach()
        return self._renewals.round(probe, only)

    async def told(self) -> None:
        """Wait a moment for what was to be logged and traced, so that a script sees it."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            call_on(loop, set_once, told, None)

        if self.events.when_told(tell):
            await asyncio.wait((told,), timeout=TOLD_SECONDS)

    # What the metrics read.

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks."""
        return self.registry.names

    @property
    def is_open(self) -> bool:
        """Whether it runs in the background: no longer, once its loop was closed under it."""
        loop = self._loop
        return self._schedule.running and loop is not None and not loop.is_closed()

    @property
    def is_published(self) -> bool:
        """Whether its metrics show: while it is open, or renews on demand on a loop that lives."""
        return self.is_open or (self._loop is not None and not self._loop.is_closed())

    def states(self) -> Sequence[tuple[Sampled, ComponentState]]:
        """Every component with its state as it stands."""
        return self.registry.states()

    def probe_statuses(self) -> dict[str, Status]:
        """The status of every probe as it stands."""
        return {probe: self.registry.status(probe) for probe in self.registry.probes}

    def fault(self, message: str, *arguments: object) -> None:
        """Tell of something wrong on the user's side of an interface."""
        self.events.fault(message, *arguments)

    # What watches over the process uses.

    def record_lag(self, seconds: float) -> None:
        """Measure, in `otel_health.event_loop.lag`, how late the event loop came to what was due."""
        self._instruments.record_lag(seconds, self.fault)

    def count(self, counter: str, component: str, **attributes: str) -> None:
        """Count something that has happened to a component, in one of the counters of `otel_health.names`."""
        self._instruments.count(counter, {COMPONENT: component, **attributes}, self.fault)

    def registration_failed(self, registration: Registered, error_type: str) -> None:
        """Count a call to a service registry that failed."""
        attributes = {**registration.attributes, ERROR_TYPE: error_type}
        self._instruments.count(REGISTRATION_FAILURES, attributes, self.fault)

    def let_speak(self, name: str) -> None:
        """Leave it to one check to fail `livez` when nothing is renewed any more.

        While it is registered, the staleness of the others does not fail `livez`; every other fault of theirs does.

        Raises:
            KeyError: There is no check of that name.
        """
        self.registry.let_speak(name)

    def check_at(self, frame: FrameType | None) -> str | None:
        """Return whose code runs in this frame: a check's name, `<check>.<child>` in a composite, or None."""
        run = run_at(frame)
        return None if run is None else self.registry.name_of(run.slot)

    # What several workers of one service use.

    def share(self, sharing: Sharing | None) -> None:
        """Plan the runs of shared checks together with siblings, from now on; None has each run here again."""
        self._sharing = sharing
        for component in self.registry:
            if component.check.shared:
                left = component.finished + component.check.interval - self.now()
                self._put(component, left if component.finished > float("-inf") else component.check.initial_delay)

    def shared_results(self) -> list[tuple[CheckResult, float]]:
        """The last result of each shared check, and when it came, on the Checker's clock.

        That no thread came free is no sibling's business.
        """
        return [
            (result, component.arrived)
            for component in self.registry
            if component.check.shared
            and (result := component.state.result) is not None
            and result.error_type is not ErrorType.SATURATED
        ]

    def adopt(self, result: CheckResult, finished: float) -> bool:
        """Take in the result of a sibling's run of a shared check, on the loop; False if it brings nothing new.

        It becomes the state that every sink shows. Nothing ran here, so no duration, failure or span is recorded.

        Args:
            result: Its component is that of a shared check.
            finished: When the run ended, on the Checker's clock, which is the same for all processes of a machine.
        """
        if result.component not in self.registry or not self._schedule.running:
            return False
        component = self.registry.get(result.component)
        if (
            not component.check.shared
            or not component.arrived < finished <= self.now() < finished + component.fresh_for
        ):
            return False
        transition, outage = self._apply(component, component.refine(result), finished)
        if transition is not None:
            self.events.changed(transition, outage)
            self._publish(transition)
        self._put(component, next_delay(component.check.interval, self.now() - finished, differs=False))
        self._remedies.consider(component, result)
        return True

    # From a run to the sinks.

    def _renew_now(self, component: Component) -> None:
        self._renewals.expire(component)
        if self._schedule.running and _is_running(self._loop):
            self._renewals.renew(component)

    def _take(self, component: Component) -> None:
        """Judge at once a component that needs no run, in whatever thread; it is told of on the loop."""
        self.registry.take(component)
        call_on(self._loop, self._taken, component)

    def _taken(self, component: Component) -> None:
        self._tell_untold()
        if self._schedule.running and component.registered:
            believed = component.state.expires_at - self.now()
            self._schedule.put(component, min(next_delay(component.check.interval, 0.0, differs=False), believed))

    def _tell_untold(self) -> None:
        while self.registry.untold:
            component, taken = self.registry.untold.popleft()
            if component.registered:
                self._tell(component, taken.result, taken.exception, taken.transition, taken.outage)

    def _ended(self, component: Component, run: Run) -> None:
        """One run has ended: result, state, sinks, in this order; and then there will be another."""
        differs = False
        try:
            if not run.withdrawn:
                differs = self._take_in(component, run)
        finally:
            if self._schedule.running:
                elapsed = 0.0 if run.started is None else self.now() - run.started
                self._put(component, next_delay(component.check.interval, elapsed, differs=differs))

    def _take_in(self, component: Component, run: Run) -> bool:
        """Take in what a run has brought; whether that differs from what is, or was, held to be true."""
        result = judge(component.check, run, time.time())
        if result.exception_type is not None:
            result = component.refine(result)
        held = component.state
        transition, outage = self._apply(component, result, run.finished)
        self._tell(component, result, run.exception, transition, outage)
        status = result.status
        return status is not component.state.status or (status is not held.status and held.decided)

    def _apply(self, component: Component, result: CheckResult, finished: float) -> tuple[Transition | None, float]:
        """Take in a result; the transition it caused, and for how long the component had failed until then."""
        held, changed_at = component.state, component.changed_at
        transition = self.registry.apply(component, result, finished)
        failed = transition is not None and held.decided and held.status is Status.FAIL
        return transition, finished - changed_at if failed else 0.0

    def _put(self, component: Component, delay: float) -> None:
        """Plan the next run of a component."""
        if component.check.shared and self._sharing is not None:
            delay = max(delay, self._sharing.wait(component.check, component.finished))
        self._schedule.put(component, delay)

    def _due(self, component: Component) -> None:
        """Renew a component whose turn has come."""
        if not (component.check.shared and self._sharing is not None and self._sharing.spares(component.check)):
            self._renewals.renew(component)

    def _tell(
        self,
        component: Component,
        result: CheckResult,
        exception: BaseException | None,
        transition: Transition | None,
        outage: float,
    ) -> None:
        self._instruments.record(result, component.attributes, self.fault)
        self.events.ran(result, exception, transition, outage)
        if result.duration is not None:
            slow = result.duration > SLOW_SHARE * component.check.timeout
            if slow or component.slow:
                self._watch_speed(component, result, slow=slow)
        if transition is not None:
            self._publish(transition)
        if component.check.shared and self._sharing is not None:
            self._sharing.ran(component.check)
        self._remedies.consider(component, result)

    def _may_mend(self, component: Component) -> bool:
        """Whether recovery actions may be taken: in an open Checker that stays, and by one worker for all."""
        others = self._sharing if component.check.shared else None
        return self.is_open and not self.leaving and (others is None or others.leads)

    def _watch_speed(self, component: Component, result: CheckResult, *, slow: bool) -> None:
        """Warn once of a run that is close to its deadline, until the check is fast again."""
        if slow and not component.slow and result.status.up:
            self.events.slow(result, component.check.timeout)
        component.slow = slow

    def _publish(self, transition: Transition) -> None:
        for listener in list(self._listeners.values()):
            try:
                Context().run(listener, transition)
            except BaseException as error:  # noqa: BLE001 - a listener's fault is its own, and costs nobody else.
                name = getattr(listener, "__qualname__", type(listener).__name__)
                self.fault("the listener %s raised %s at %s", name, type(error).__name__, transition.component)

    def _noticed_stale(self) -> None:
        """Someone read a state that is too old, in whatever thread: have it made official on the loop."""
        if self._loop is None or self._expiring:
            return
        self._expiring = True
        if not call_on(self._loop, self._expire):
            self._expiring = False  # Nobody is left to be told, and every reader sees it anyway.

    def _expire(self) -> None:
        self._expiring = False
        for component in self.registry.overdue():
            self._take(component)
        for transition in self.registry.expire():
            self.events.changed(transition)
            self._publish(transition)


def _is_running(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether this thread is in that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
