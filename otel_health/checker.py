"""The Checker: registers checks, runs them, keeps their state and feeds the sinks."""

import asyncio
import logging
import time
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from inspect import isasyncgenfunction
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from opentelemetry._logs import LoggerProvider
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
    require_bool,
    require_count,
    require_known,
    require_name,
    require_seconds,
    slips,
)
from otel_health.engine import Engine, Listener
from otel_health.events import TRACE, Events, Trace
from otel_health.gate import Gate
from otel_health.heartbeat import Heartbeat
from otel_health.history import Particulars
from otel_health.http.endpoints import (
    Authorize,
    Endpoints,
    HealthApp,
    ProbeEndpoint,
    ProbeRoutes,
    require_details,
)
from otel_health.http.render import Details, Service
from otel_health.ladder import Action, Ladder
from otel_health.metrics import instruments_of
from otel_health.report import HealthReport

Function = TypeVar("Function", bound=CheckFunc)
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


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
        logger_provider: Where transitions go as events of OpenTelemetry; the global provider by default. Where the
            logger hands its lines to it already, those are the events.
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
        logger_provider: LoggerProvider | None = None,
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
        _require_telemetry(meter_provider, tracer_provider, logger, logger_provider)
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
        instruments = instruments_of(meter_provider)
        logger = logger or logging.getLogger("otel_health")
        events = Events(logger, logger_provider, tracer_provider, trace, tracebacks=tracebacks)
        self.engine = Engine(clock, ttl, instruments, events)
        """What runs inside, for those who build upon it."""

    # Registration.

    def add(self, name: str, function: CheckFunc, **options: Unpack[CheckOptions]) -> Check:
        """Register a check function under a name.

        Raises:
            TypeError: An option is unknown, or the function cannot be called.
            ValueError: The name is taken or ill-formed, or an option is out of its range.

        Warns:
            UserWarning: A probe of your own is called nearly as one of the four.
        """
        require_name(name, "check")
        require_known(f"check {name!r}", options)
        policy: CheckOptions = {**self._defaults, **options}
        check = self.engine.register(Check(name=name, function=function, **policy))
        for probe, meant in slips(check.probes):
            warnings.warn(
                f"check {name!r}: {probe!r} is a probe of its own, and {meant} does not ask this check; is it meant?",
                stacklevel=2,
            )
        return check

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
        recover: Action | Ladder | None = None,
        recover_within: float = 30.0,
    ) -> Heartbeat:
        """Register a worker that says it is alive, and return what it calls: `heartbeat.beat()`.

        It fails as soon as the last beat is `max_age` seconds old, and passes at the next one; no threshold applies.

        Args:
            name: The name of its component.
            max_age: Seconds that may pass without a beat.
            probes: The probes that ask it; it looks only inside this process, so `livez` may be one.
            critical: Whether it turns its probes to fail, not only to warn.
            recover: What an open Checker does when it has failed, such as to start the worker anew.
            recover_within: Seconds that this may take.

        Raises:
            ValueError: The name is taken or ill-formed, or an option is out of its range.

        Example:
            >>> consumer = checker.heartbeat("consumer", max_age=60)
            >>> consumer.beat()
        """
        require_seconds(f"heartbeat {name!r}", "max_age", max_age)
        heartbeat = Heartbeat(max_age=max_age, clock=self.now)
        self._add_instant(name, heartbeat, probes, critical=critical, recover=recover, recover_within=recover_within)
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
        self.engine.refuse_shared([copy.name for copy in copies])
        for copy in copies:
            self.engine.register(copy)

    def remove(self, name: str) -> None:
        """Forget a check: what is running for it is dropped, and its series end.

        Raises:
            KeyError: There is no check of that name.
        """
        self.engine.remove(name)

    def get(self, name: str) -> Check:
        """Return the check of that name.

        Raises:
            KeyError: There is none; the message names those that are registered.
        """
        return self.engine.registry.get(name).check

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks, in the order of their registration."""
        return self.engine.registry.names

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that may be asked: the four standard ones and those that checks are registered for."""
        return self.engine.registry.probes

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.engine.registry

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener`, on the loop, with each `Transition`; the returned function unsubscribes it.

        Raises:
            TypeError: The listener is no plain function.
        """
        if not callable(listener) or is_async(listener):
            raise TypeError(f"{listener!r} cannot listen; pass a plain function of one Transition")
        return self.engine.subscribe(listener)

    # Asking.

    async def run(self, probe: str = READYZ) -> HealthReport:
        """Renew what is too old of this probe's checks (`healthz` has them all), wait for it, and report.

        Each run has its own timeout; a result younger than `ttl` is not renewed.

        Raises:
            ValueError: Nobody knows this probe.
            RuntimeError: The Checker belongs to another event loop.
        """
        self.engine.registry.asked_by(probe)
        renewed = self.engine.renewed(probe)
        if renewed is not None:
            await asyncio.wait((renewed,))
        await self.engine.told()
        return self.report(probe)

    def renew(self, name: str) -> None:
        """Have a check renewed now instead of at its next turn; safe from any thread.

        A run that is under way may have begun before what you know of: another follows it. A Checker that renews on
        demand only marks the result as too old, for the next probe to renew.

        Raises:
            KeyError: There is no check of that name.
        """
        self.engine.renew(name)

    def report(self, probe: str = READYZ, *, exclude: Collection[str] = ()) -> HealthReport:
        """Return the state as it stands; runs nothing, safe from any thread.

        Raises:
            ValueError: Nobody knows this probe.
            TypeError: `exclude` is a string, which would exclude every name that is part of it.
        """
        if isinstance(exclude, str):
            raise TypeError(f"report: exclude={exclude!r} must be a set of names, such as {{{exclude!r}}}")
        return self.engine.registry.report(probe, exclude)

    def report_one(self, probe: str, component: str) -> HealthReport | None:
        """Return one component's state by its own status; None where the probe does not ask it."""
        return self.engine.registry.report_one(probe, component)

    def particulars(self, component: str) -> Particulars | None:
        """Return what is known of a component beside its state; None where there is none of that name."""
        return self.engine.registry.particulars(component)

    def expires_at(self, probe: str) -> float:
        """Return when the first of the probe's states stops being believed: seconds on the monotonic clock."""
        return self.engine.registry.expires_at(probe)

    # Running in the background.

    async def __aenter__(self) -> Self:
        await self.engine.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.engine.close()

    def lifespan(self, app: object) -> AbstractAsyncContextManager[None]:
        """Keep the Checker open while the application lives: `Starlette(lifespan=checker.lifespan)`."""
        return self._lifespan(None, app)

    def lifespan_with(self, lifespan: Lifespan) -> Lifespan:
        """Return a lifespan that opens the application's own first, and the Checker inside it.

        Raises:
            TypeError: It cannot be called, or is a bare generator.
        """
        if not callable(lifespan) or isinstance(lifespan, AbstractAsyncContextManager):
            raise TypeError(
                f"lifespan_with: a {type(lifespan).__name__} is no lifespan; pass a function of the application, "
                "and not its result"
            )
        if isasyncgenfunction(lifespan):
            raise TypeError(f"lifespan_with: decorate {lifespan.__name__} with contextlib.asynccontextmanager")
        return partial(self._lifespan, lifespan)

    @asynccontextmanager
    async def _lifespan(self, inner: Lifespan | None, app: object) -> AsyncIterator[Any]:
        if inner is None:
            async with self:
                yield None
        else:
            async with inner(app) as state, self:
                yield state

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
        self.engine.registry.asked_by(probe)
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

    # What the endpoints read, and those who build upon it.

    @property
    def version(self) -> int:
        """Grows with every change that an anonymous answer could show."""
        return self.engine.registry.version

    @property
    def is_open(self) -> bool:
        """Whether the Checker runs in the background."""
        return self.engine.is_open

    def renewal(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None":
        """Renew on demand what is too old for this probe, or for one component; what to wait for, if anything."""
        return self.engine.renewal(probe, only)

    def fault(self, message: str, *arguments: object) -> None:
        """Tell of something wrong on the user's side of an interface."""
        self.engine.fault(message, *arguments)

    def note(
        self,
        level: int,
        message: str,
        *arguments: object,
        attributes: Mapping[str, object] | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Log something to the Checker's logger, from any thread, without waiting for its handlers.

        Args:
            level: As `logging` has it.
            message: A format.
            arguments: What is formatted.
            attributes: What a log record carries beside its message.
            exception: Whose traceback follows the message, if `tracebacks` are allowed.
        """
        self.engine.events.note(level, message, *arguments, attributes=attributes, exception=exception)

    def _add_instant(
        self,
        name: str,
        function: CheckFunc,
        probes: Collection[str],
        *,
        critical: bool,
        recover: Action | Ladder | None = None,
        recover_within: float = 30.0,
    ) -> None:
        check = Check(
            name=name,
            function=function,
            timeout=self._defaults["timeout"],
            interval=self._defaults["interval"],
            probes=probes,
            local=True,
            critical=critical,
            recover=recover,
            recover_within=recover_within,
        )
        self.engine.register(check)

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


def _require_telemetry(
    meter_provider: object, tracer_provider: object, logger: object, logger_provider: object
) -> None:
    if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
        hint = "pass exporter.meter_provider" if hasattr(meter_provider, "meter_provider") else "pass a MeterProvider"
        raise TypeError(f"Checker: meter_provider is a {type(meter_provider).__name__}; {hint}")
    if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
        raise TypeError(f"Checker: tracer_provider is a {type(tracer_provider).__name__}; pass a TracerProvider")
    if logger_provider is not None and not isinstance(logger_provider, LoggerProvider):
        raise TypeError(f"Checker: logger_provider is a {type(logger_provider).__name__}; pass a LoggerProvider")
    if logger is not None and not isinstance(logger, logging.Logger):
        raise TypeError(
            f"Checker: logger is a {type(logger).__name__}; pass a logging.Logger, as logging.getLogger() does"
        )
