"""The Checker: registers checks, runs them, keeps their state and feeds the sinks."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from dataclasses import replace
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.routing import BaseRoute
from starlette.types import Receive, Send

from otel_health.check import (
    READYZ,
    Check,
    CheckFunc,
    CheckOptions,
    is_async,
    judge,
    require_bool,
    require_count,
    require_known,
    require_name,
    require_seconds,
)
from otel_health.compose import set_once
from otel_health.events import SLOW_SHARE, TRACE, Events, Trace
from otel_health.execution import Runner
from otel_health.forks import leave, tell_of_forks
from otel_health.gate import Gate
from otel_health.heartbeat import Heartbeat
from otel_health.http.endpoints import (
    Authorize,
    Endpoints,
    HealthApp,
    ProbeEndpoint,
    ProbeRoutes,
    require_details,
)
from otel_health.http.render import Details, Service
from otel_health.metrics import Sampled, instruments_of
from otel_health.quiet import quiet_context
from otel_health.registry import Component, Registry
from otel_health.renewal import Renewals
from otel_health.report import CheckResult, ComponentState, ErrorType, HealthReport, Status, Transition
from otel_health.run import Run, Slot, run_at
from otel_health.schedule import Schedule, next_delay
from otel_health.threads import call_on

Function = TypeVar("Function", bound=CheckFunc)
Listener = Callable[[Transition], None]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class Sharing(Protocol):
    """How the shared checks of one worker go together with those of its siblings; called on the loop."""

    def wait(self, check: Check, finished: float) -> float:
        """Return for how many seconds a run may wait for a sibling's result, given when the last result came."""

    def spares(self, check: Check) -> bool:
        """Return whether a sibling's result was adopted in place of the run that is due."""

    def ran(self, check: Check) -> None:
        """Learn that a run here has brought a result."""


TOLD_SECONDS = 0.25
"""How long `run` waits, at most, for its log lines and spans to be written."""


class Checker:
    """Gives each check a deadline, runs them concurrently, and holds the one state that every sink reads.

    Used as it is, a probe that finds its state older than `ttl` renews it. Opened with `async with` (or as a
    lifespan), checks are renewed in the background and probes only read.

    Args:
        timeout: Seconds one run may take, for checks that do not say otherwise.
        interval: Seconds between two renewals of a check by an open Checker, plus or minus 10 %.
        ttl: Seconds after which a probe renews a result, on demand; one that is believed no more it renews sooner.
        answer_within: Seconds in which an HTTP probe answers, whatever its checks do (kubelet waits 1 s).
        failure_threshold: Consecutive failures before an up component is held to fail.
        success_threshold: Consecutive successes before a component that is not up is held to be up.
        tracebacks: Whether logs and spans may hold tracebacks; they can hold secrets.
        trace: Which runs leave a span: `"failures"`, `"always"` or `"never"`.
        meter_provider: Where metrics go; the global provider by default.
        tracer_provider: Where spans go; the global provider by default.
        logger: A standard-library logger; `logging.getLogger("otel_health")` by default.
        service_id: Appears in health+json, as do `version` and `release_id`.
        clock: Monotonic seconds; for tests that control time.

    Raises:
        ValueError: An option is out of its range.

    Example:
        >>> checker = Checker(timeout=3.0)
        >>> @checker.check("postgres")
        ... async def postgres() -> None:
        ...     await pool.execute("SELECT 1")
    """

    def __init__(
        self,
        *,
        timeout: float = 3.0,
        interval: float = 10.0,
        ttl: float = 1.0,
        answer_within: float = 0.8,
        failure_threshold: int = 1,
        success_threshold: int = 1,
        tracebacks: bool = False,
        trace: Trace = "failures",
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        logger: logging.Logger | None = None,
        service_id: str | None = None,
        version: str | None = None,
        release_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for option, seconds in (
            ("timeout", timeout), ("interval", interval), ("ttl", ttl), ("answer_within", answer_within)
        ):  # fmt: skip
            require_seconds("Checker", option, seconds)
        require_count("Checker", "failure_threshold", failure_threshold)
        require_count("Checker", "success_threshold", success_threshold)
        require_bool("Checker", "tracebacks", tracebacks)
        _require_telemetry(meter_provider, tracer_provider, logger)
        for option, text in (("service_id", service_id), ("version", version), ("release_id", release_id)):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"Checker: {option}={text!r} must be a string")
        if trace not in TRACE:
            raise ValueError(f"Checker: trace={trace!r} must be one of {', '.join(map(repr, TRACE))}")
        self._defaults: CheckOptions = {
            "timeout": timeout,
            "interval": interval,
            "failure_threshold": failure_threshold,
            "success_threshold": success_threshold,
        }
        self.answer_within = answer_within
        self.service = Service(service_id, version, release_id)
        self.now = clock
        # Made here, not on the loop: the SDK's lock for it is held by whoever collects, however long that takes.
        self._instruments = instruments_of(meter_provider)
        self._events = Events(logger or logging.getLogger("otel_health"), tracer_provider, trace, tracebacks=tracebacks)
        self._runner = Runner(clock, quiet_context())
        self._registry = Registry(clock, self._noticed_stale)
        self._renewals = Renewals(self._runner, self._registry, ttl, self._ended, self._take)
        self._schedule: Schedule[Component] = Schedule(clock, self._due)
        self._listeners: dict[object, Listener] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiring = False
        self._closing = False
        self._sharing: Sharing | None = None
        tell_of_forks(self)

    # Registration.

    def add(self, name: str, function: CheckFunc, **options: Unpack[CheckOptions]) -> Check:
        """Register a check function under a name.

        Raises:
            TypeError: An option is unknown, or the function cannot be called.
            ValueError: The name is taken or ill-formed, or an option is out of its range.
        """
        require_name(name, "check")
        require_known(f"check {name!r}", options)
        policy: CheckOptions = {**self._defaults, **options}
        return self._register(Check(name=name, function=function, **policy))

    def check(self, name: str, **options: Unpack[CheckOptions]) -> Callable[[Function], Function]:
        """Register the decorated function; see `add`."""
        if callable(name):
            raise TypeError('write @checker.check("postgres"): the decorator takes the name of the component')
        require_name(name, "check")
        require_known(f"check {name!r}", options)

        def register(function: Function) -> Function:
            self.add(name, function, **options)
            return function

        return register

    def gate(
        self,
        name: str,
        *,
        ready: bool = False,
        reason: str = "closed",
        probes: Collection[str] = frozenset({READYZ}),
        critical: bool = True,
    ) -> Gate:
        """Register a switch that the application turns, and return it.

        Its change is seen at once, by every sink and in every mode; no threshold applies.

        Args:
            name: The name of its component.
            ready: Whether it is open from the start.
            reason: Why it is closed: one sentence for the operator.
            probes: The probes that ask it; it looks only inside this process, so `livez` may be one.
            critical: Whether it turns its probes to fail, not only to warn, while it is closed.

        Raises:
            ValueError: The name is taken or ill-formed, or an option is out of its range.
            TypeError: The reason is no string.

        Example:
            >>> gate = checker.gate("config", reason="loading")
            >>> gate.open()
        """
        require_bool(f"gate {name!r}", "ready", ready)
        gate = Gate(ready=ready, reason=reason)
        self._add_instant(name, gate, probes, critical=critical)
        return gate

    def heartbeat(
        self,
        name: str,
        *,
        max_age: float,
        probes: Collection[str] = frozenset({READYZ}),
        critical: bool = True,
    ) -> Heartbeat:
        """Register a worker that says it is alive, and return what it calls: `heartbeat.beat()`.

        It fails as soon as the last beat is `max_age` seconds old, and passes at the next one; no threshold applies.

        Args:
            name: The name of its component.
            max_age: Seconds that may pass without a beat.
            probes: The probes that ask it; it looks only inside this process, so `livez` may be one.
            critical: Whether it turns its probes to fail, not only to warn.

        Raises:
            ValueError: The name is taken or ill-formed, or an option is out of its range.

        Example:
            >>> consumer = checker.heartbeat("consumer", max_age=60)
            >>> consumer.beat()
        """
        require_seconds(f"heartbeat {name!r}", "max_age", max_age)
        heartbeat = Heartbeat(max_age=max_age, clock=self.now)
        self._add_instant(name, heartbeat, probes, critical=critical)
        return heartbeat

    def include(self, prefix: str, other: "Checker") -> None:
        """Register copies of another Checker's checks, named `<prefix>.<name>`.

        Raises:
            ValueError: The other is this Checker, or a name is taken or ill-formed; then nothing was added.
        """
        if other is self:
            raise ValueError(f"include({prefix!r}): a Checker cannot include itself; pass another one")
        require_name(prefix, "prefix")
        copies = [replace(other.get(name), name=f"{prefix}.{name}") for name in other.names]
        for copy in copies:
            if copy.name in self:
                raise ValueError(f"a check named {copy.name!r} is already registered; choose another prefix")
        if self._schedule.running:
            self._instruments.refuse_shared(self, [copy.name for copy in copies])
        for copy in copies:
            self._register(copy)

    def remove(self, name: str) -> None:
        """Forget a check: what is running for it is dropped, and its series end.

        Raises:
            KeyError: There is no check of that name.
        """
        component = self._registry.remove(name)
        if component.instant is not None and component.watcher is not None:
            component.instant.unwatch(component.watcher)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._renewals.drop, component)

    def get(self, name: str) -> Check:
        """Return the check of that name.

        Raises:
            KeyError: There is none; the message names those that are registered.
        """
        return self._registry.get(name).check

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks, in the order of their registration."""
        return self._registry.names

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that may be asked: the four standard ones and those that checks are registered for."""
        return self._registry.probes

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._registry

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener`, on the loop, with each `Transition`; the returned function unsubscribes it.

        Raises:
            TypeError: The listener is no plain function.
        """
        if not callable(listener) or is_async(listener):
            raise TypeError(f"{listener!r} cannot listen; pass a plain function of one Transition")
        subscription = object()
        self._listeners[subscription] = listener
        return lambda: self._listeners.pop(subscription, None) and None

    # Asking.

    async def run(self, probe: str = READYZ) -> HealthReport:
        """Renew what is too old of this probe's checks (`healthz` has them all), wait for it, and report.

        Each run has its own timeout; a result younger than `ttl` is not renewed.

        Raises:
            ValueError: Nobody knows this probe.
            RuntimeError: The Checker belongs to another event loop.
        """
        self._registry.asked_by(probe)
        self._attach()
        renewal = self._renewals.round(probe)
        if renewal is not None:
            await asyncio.wait((renewal,))
        await self._told()
        return self.report(probe)

    def renew(self, name: str) -> None:
        """Have a check renewed now instead of at its next turn; safe from any thread.

        A run that is under way may have begun before what you know of: another follows it. A Checker that renews on
        demand only marks the result as too old, for the next probe to renew.

        Raises:
            KeyError: There is no check of that name.
        """
        component = self._registry.get(name)
        if component.instant is not None:
            self._take(component)
        elif _is_running(self._loop) or not call_on(self._loop, self._renew_now, component):
            self._renew_now(component)

    def report(self, probe: str = READYZ, *, exclude: Collection[str] = ()) -> HealthReport:
        """Return the state as it stands; runs nothing, safe from any thread.

        Raises:
            ValueError: Nobody knows this probe.
            TypeError: `exclude` is a string, which would exclude every name that is part of it.
        """
        if isinstance(exclude, str):
            raise TypeError(f"report: exclude={exclude!r} must be a set of names, such as {{{exclude!r}}}")
        return self._registry.report(probe, exclude)

    def report_one(self, probe: str, component: str) -> HealthReport | None:
        """Return one component's state by its own status; None where the probe does not ask it."""
        return self._registry.report_one(probe, component)

    def expires_at(self, probe: str) -> float:
        """Return when the first of the probe's states stops being believed: seconds on the monotonic clock."""
        return self._registry.expires_at(probe)

    # Running in the background.

    async def __aenter__(self) -> Self:
        if self._closing or self._schedule.running:
            raise RuntimeError("this Checker is already open; open it once, or use a second Checker")
        self._instruments.refuse_shared(self, self.names)
        loop = self._attach()
        self._instruments.open(self)
        self._schedule.start(loop)
        for component in self._registry:
            if component.instant is not None:
                component.instant.opened()
            self._put(component, component.check.initial_delay)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        self._schedule.stop()
        self._instruments.close(self)
        try:
            await self._runner.close()
            await self._told()
        finally:
            self._renewals.reset()
            self._events.close()
            self._loop = None
            self._closing = False

    def lifespan(self, app: object) -> AbstractAsyncContextManager[None]:
        """Keep the Checker open while the application lives: `Starlette(lifespan=checker.lifespan)`."""
        return self._lifespan(None, app)

    def lifespan_with(self, lifespan: Lifespan) -> Lifespan:
        """Return a lifespan that opens the application's own first, and the Checker inside it."""
        return partial(self._lifespan, lifespan)

    @asynccontextmanager
    async def _lifespan(self, inner: Lifespan | None, app: object) -> AsyncIterator[Any]:
        if inner is None:
            async with self:
                yield None
        else:
            async with inner(app) as state, self:
                yield state

    def forked(self) -> None:
        """Be closed, in a forked child: loop, threads and runs are the parent's; what is known keeps its age."""
        self._registry.forked()
        self._runner.forked()
        self._renewals.forked()
        self._schedule.forked()
        if self._loop is not None:
            leave(self._loop)
            self._registry.untold.clear()
        self._loop = self._sharing = None
        self._expiring = self._closing = False

    # HTTP.

    def handler(
        self, probe: str = READYZ, *, details: Details = "names", authorize: Authorize | None = None
    ) -> ProbeEndpoint:
        """Return a Starlette endpoint for one probe: `Route("/ready", checker.handler())`.

        Args:
            probe: Which one.
            details: What anyone may see: `"status"`, `"names"` or `"full"`.
            authorize: Lifts a caller to `"full"` when it answers exactly True.

        Raises:
            ValueError: Nobody knows this probe (register its checks first), or `details` is none of the three.
        """
        self._registry.asked_by(probe)
        require_details(details, authorize)
        return ProbeEndpoint(self, probe, details, authorize)

    def routes(
        self, prefix: str = "", *, details: Details = "names", authorize: Authorize | None = None
    ) -> list[BaseRoute]:
        """Return the Starlette routes of every probe, as one that is cheap to pass by; see `handler`."""
        require_details(details, authorize)
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ValueError(f"prefix={prefix!r} must begin with '/' and not end with it, such as '/health'")
        return [ProbeRoutes(Endpoints(self, details, authorize), prefix)]

    def asgi(self, *, details: Details = "names", authorize: Authorize | None = None) -> HealthApp:
        """Return an ASGI application of every probe, to be mounted anywhere or served by itself; see `handler`.

        Served by itself it opens the Checker for as long as the server lives.
        """
        require_details(details, authorize)
        return HealthApp(Endpoints(self, details, authorize), self._serve_lifespan)

    # What the endpoints and the metrics read.

    @property
    def version(self) -> int:
        """Grows with every change that an anonymous answer could show."""
        return self._registry.version

    @property
    def is_open(self) -> bool:
        """Whether the Checker runs in the background."""
        return self._schedule.running

    @property
    def is_published(self) -> bool:
        """Whether its metrics show: while it is open, or renews on demand on a loop that lives."""
        return self.is_open or (self._loop is not None and not self._loop.is_closed())

    def states(self) -> Sequence[tuple[Sampled, ComponentState]]:
        """Every component with its state as it stands."""
        return self._registry.states()

    def probe_statuses(self) -> dict[str, Status]:
        """The status of every probe as it stands."""
        return {probe: self._registry.status(probe) for probe in self._registry.probes}

    def renewal(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None":
        """Renew on demand what is too old for this probe, or for one component; what to wait for, if anything."""
        loop = self._loop
        if self._closing or (self._schedule.running and loop is not None and not loop.is_closed()):
            return None
        self._attach()
        return self._renewals.round(probe, only)

    def fault(self, message: str, *arguments: object) -> None:
        """Tell of something wrong on the user's side of an interface."""
        self._events.fault(message, *arguments)

    # What watches over the process uses.

    def note(
        self, level: int, message: str, *arguments: object, attributes: Mapping[str, object] | None = None
    ) -> None:
        """Log something to the Checker's logger, from any thread, without waiting for its handlers.

        Args:
            level: As `logging` has it.
            message: A format.
            arguments: What is formatted.
            attributes: What a log record carries beside its message.
        """
        self._events.note(level, message, *arguments, attributes=attributes)

    def record_lag(self, seconds: float) -> None:
        """Measure, in `otel_health.event_loop.lag`, how late the event loop came to what was due."""
        self._instruments.record_lag(seconds, self.fault)

    def let_speak(self, name: str) -> None:
        """Leave it to one check to fail `livez` when nothing is renewed any more.

        While it is registered, the staleness of the others does not fail `livez`; every other fault of theirs does.

        Raises:
            KeyError: There is no check of that name.
        """
        self._registry.let_speak(name)

    def check_at(self, frame: FrameType | None) -> str | None:
        """Return whose code runs in this frame: a check's name, `<check>.<child>` in a composite, or None."""
        run = run_at(frame)
        return None if run is None else self._registry.name_of(run.slot)

    # What several workers of one service use.

    def share(self, sharing: Sharing | None) -> None:
        """Plan the runs of shared checks together with siblings, from now on; None has each run here again."""
        self._sharing = sharing
        for component in self._registry:
            if component.check.shared:
                left = component.finished + component.check.interval - self.now()
                self._put(component, left if component.finished > float("-inf") else component.check.initial_delay)

    def shared_results(self) -> list[tuple[CheckResult, float]]:
        """The last result of each shared check, and when it came, on the Checker's clock.

        That no thread came free is no sibling's business.
        """
        return [
            (result, component.finished)
            for component in self._registry
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
        if result.component not in self or not self._schedule.running:
            return False
        component = self._registry.get(result.component)
        if (
            not component.check.shared
            or not component.finished < finished <= self.now() < finished + component.fresh_for
        ):
            return False
        transition, outage = self._apply(component, component.refine(result), finished)
        if transition is not None:
            self._events.changed(transition, outage)
            self._publish(transition)
        self._put(component, next_delay(component.check.interval, self.now() - finished, differs=False))
        return True

    # From a run to the sinks.

    def _register(self, check: Check) -> Check:
        if self._schedule.running:
            self._instruments.refuse_shared(self, (check.name,))
        component = Component(check, Slot(self._runner, check.function, local=check.local), self.now())
        self._registry.add(component)
        if component.instant is not None:
            component.watcher = partial(self._take, component)
            component.instant.watch(component.watcher)
            self._take(component)
        loop = self._loop
        if self._schedule.running and loop is not None:
            loop.call_soon_threadsafe(self._put, component, check.initial_delay)
        return check

    def _add_instant(self, name: str, function: CheckFunc, probes: Collection[str], *, critical: bool) -> None:
        check = Check(
            name=name,
            function=function,
            timeout=self._defaults["timeout"],
            interval=self._defaults["interval"],
            probes=probes,
            local=True,
            critical=critical,
        )
        self._register(check)

    def _attach(self) -> asyncio.AbstractEventLoop:
        """Belong to the running loop from now on."""
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
        self._expiring = False
        self._loop = loop
        if self._registry.untold:
            loop.call_soon(self._tell_untold)
        return loop

    def _renew_now(self, component: Component) -> None:
        self._renewals.expire(component)
        if self._schedule.running and _is_running(self._loop):
            self._renewals.renew(component)

    def _take(self, component: Component) -> None:
        """Judge at once a component that needs no run, in whatever thread; it is told of on the loop."""
        self._registry.take(component)
        call_on(self._loop, self._taken, component)

    def _taken(self, component: Component) -> None:
        self._tell_untold()
        if self._schedule.running and component.registered:
            believed = component.state.expires_at - self.now()
            self._schedule.put(component, min(next_delay(component.check.interval, 0.0, differs=False), believed))

    def _tell_untold(self) -> None:
        while self._registry.untold:
            component, taken = self._registry.untold.popleft()
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
        transition = self._registry.apply(component, result, finished)
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
        self._events.ran(result, exception, transition, outage)
        if result.duration is not None:
            slow = result.duration > SLOW_SHARE * component.check.timeout
            if slow or component.slow:
                self._watch_speed(component, result, slow=slow)
        if transition is not None:
            self._publish(transition)
        if component.check.shared and self._sharing is not None:
            self._sharing.ran(component.check)

    def _watch_speed(self, component: Component, result: CheckResult, *, slow: bool) -> None:
        """Warn once of a run that is close to its deadline, until the check is fast again."""
        if slow and not component.slow and result.status.up:
            self._events.slow(result, component.check.timeout)
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
        for component in self._registry.overdue():
            self._take(component)
        for transition in self._registry.expire():
            self._events.changed(transition)
            self._publish(transition)

    async def _told(self) -> None:
        """Wait a moment for what was to be logged and traced, so that a script sees it."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            call_on(loop, set_once, told, None)

        if self._events.when_told(tell):
            await asyncio.wait((told,), timeout=TOLD_SECONDS)

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            await self.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})


def _is_running(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether this thread is in that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _require_telemetry(meter_provider: object, tracer_provider: object, logger: object) -> None:
    if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
        hint = "pass exporter.meter_provider" if hasattr(meter_provider, "meter_provider") else "pass a MeterProvider"
        raise TypeError(f"Checker: meter_provider is a {type(meter_provider).__name__}; {hint}")
    if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
        raise TypeError(f"Checker: tracer_provider is a {type(tracer_provider).__name__}; pass a TracerProvider")
    if logger is not None and not isinstance(logger, logging.Logger):
        raise TypeError(
            f"Checker: logger is a {type(logger).__name__}; pass a logging.Logger, as logging.getLogger() does"
        )
