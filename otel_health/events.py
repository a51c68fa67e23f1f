"""What is told as it happens: one event and one log line for a transition, one span for a failing run."""

import logging
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final, Literal

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider
from opentelemetry.context import Context as OtelContext
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider

from otel_health import names
from otel_health.redaction import stack_of
from otel_health.report import CheckResult, ErrorType, Status, Transition
from otel_health.threads import Threads
from otel_health.transition_log import TransitionLog

Trace = Literal["failures", "always", "never"]
TRACE: Final = ("failures", "always", "never")

SLOW_SHARE: Final = 0.8
"""Part of its timeout from which a run is slow enough to be warned of."""

MAX_WAITING: Final = 1000
"""Events that may wait for a handler or exporter that hangs, before further ones are lost and counted."""

_LEVELS: Final = {Status.FAIL: logging.ERROR, Status.WARN: logging.WARNING, Status.PASS: logging.INFO}


class Events:
    """Logs, events and failure spans of one Checker.

    They are written by one thread of their own, in order: a log handler or span exporter that hangs must hold up
    neither the loop nor a verdict.

    Args:
        logger: A standard-library logger.
        logger_provider: Where events go; None for the global one at the time of the transition.
        tracer_provider: Where spans go; None for the global one at the time of the run.
        trace_policy: Which runs leave a span.
        tracebacks: Whether logs and spans may hold tracebacks, which can hold secrets.
    """

    def __init__(
        self,
        logger: logging.Logger,
        logger_provider: LoggerProvider | None,
        tracer_provider: TracerProvider | None,
        trace_policy: Trace,
        *,
        tracebacks: bool,
    ) -> None:
        self._logger = logger
        self._transitions = TransitionLog(logger, logger_provider)
        self._tracer_provider = tracer_provider
        self._trace = trace_policy
        self._tracebacks = tracebacks
        self._thread = Threads(working=1, total=1)
        self._lost = 0

    def ran(
        self, result: CheckResult, exception: BaseException | None, transition: Transition | None, outage: float
    ) -> None:
        """Tell of a run, and of the transition it caused, as far as anybody wants to hear of it.

        Args:
            result: What the run brought.
            exception: What it raised, for a traceback where those are allowed.
            transition: What changed by it, if anything did.
            outage: Seconds for which the component had failed until now.
        """
        failed = result.status is Status.FAIL
        traced = result.duration is not None and (self._trace == "always" or (failed and self._trace == "failures"))
        if not (traced or self._hears(transition)):
            return
        stack = None
        if self._tracebacks and exception is not None:
            stack = stack_of(exception)
        ended_at = time.time_ns()
        planned = getattr(type(exception), "planned", False) is True  # Of its class: an instance may be hostile.
        self._tell(lambda: self._run(result, transition, outage, stack, ended_at, traced=traced, planned=planned))

    def changed(self, transition: Transition, outage: float = 0.0) -> None:
        """Tell of a transition that no run here caused: a component went stale, or a sibling's result was adopted."""
        if not self._hears(transition):
            return
        noticed_at = time.time_ns()
        self._tell(lambda: self._transition(transition, transition.state.result, outage, None, noticed_at))

    def slow(self, result: CheckResult, timeout: float) -> None:
        """Warn that a run took so long that it may soon miss its deadline."""
        self._tell(
            lambda: self._logger.warning(
                "%s took %.3f s of its timeout of %g s",
                result.component,
                result.duration,
                timeout,
                extra={names.EVENT_COMPONENT: result.component, names.EVENT_DURATION: result.duration},
            )
        )

    def fault(self, message: str, *arguments: object) -> None:
        """Tell of something wrong on the user's side of an interface: a listener or an authoriser that raises."""
        self.note(logging.ERROR, message, *arguments)

    def note(
        self,
        level: int,
        message: str,
        *arguments: object,
        attributes: Mapping[str, object] | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Tell of anything else, with structured attributes, and the exception's traceback where those are allowed."""
        if self._tracebacks and exception is not None:
            message, arguments = f"{message}\n%s", (*arguments, stack_of(exception))
        self._tell(lambda: self._logger.log(level, message, *arguments, extra=attributes))

    def when_told(self, call: Callable[[], None]) -> bool:
        """Call back, in the events' thread, once all that was to be told has been; False if nothing waits."""
        if not self._thread.busy:
            return False
        self._tell(call)
        return True

    def close(self) -> None:
        """End the thread when it has told what it has to tell."""
        self._thread.close()

    def _hears(self, transition: Transition | None) -> bool:
        if transition is None:
            return self._logger.isEnabledFor(logging.DEBUG)
        return self._transitions.hears(_LEVELS[transition.after])

    def _tell(self, tell: Callable[[], None]) -> None:
        if self._thread.waiting >= MAX_WAITING:
            self._lost += 1
            return
        self._thread.submit(lambda: Context().run(self._guarded, tell))

    def _guarded(self, tell: Callable[[], None]) -> None:
        lost, self._lost = self._lost, 0
        try:
            if lost:
                self._logger.error("%d events were lost: a log handler or span exporter hung or raised", lost)
        except BaseException:  # noqa: BLE001 - as below; what could not be told of is not forgotten.
            self._lost += lost
        try:
            tell()
        except BaseException:  # noqa: BLE001 - a handler or exporter at fault must not end this thread.
            self._lost += 1

    def _run(
        self,
        result: CheckResult,
        transition: Transition | None,
        outage: float,
        stack: str | None,
        ended_at: int,
        *,
        traced: bool,
        planned: bool,
    ) -> None:
        span = self._span(result, stack, ended_at) if traced else trace.INVALID_SPAN
        if transition is not None:
            # Within the span, so that whoever reads the one finds the other.
            with trace.use_span(span):
                self._transition(transition, result, outage, stack, ended_at, planned=planned)
        self._logger.debug(
            "%s: %s in %s s",
            result.component,
            result.status,
            "-" if result.duration is None else format(result.duration, ".6f"),
            extra={names.EVENT_COMPONENT: result.component, names.EVENT_DURATION: result.duration},
        )

    def _span(self, result: CheckResult, stack: str | None, ended_at: int) -> trace.Span:
        provider = self._tracer_provider or trace.get_tracer_provider()
        span = provider.get_tracer(names.SCOPE).start_span(
            names.SPAN,
            context=OtelContext(),
            kind=SpanKind.INTERNAL,
            start_time=ended_at - int((result.duration or 0.0) * 1e9),
            attributes={names.EVENT_COMPONENT: result.component, names.EVENT_TO: result.status.value},
        )
        if result.error_type is not None:
            span.set_attribute("error.type", str(result.refined_error_type))
        if result.status is Status.FAIL:
            span.set_status(StatusCode.ERROR, result.message)
            attributes = {"exception.type": str(result.refined_error_type), "exception.message": result.message or ""}
            if stack is not None:
                attributes["exception.stacktrace"] = stack
            span.add_event("exception", attributes, ended_at)
        span.end(ended_at)
        return span

    def _transition(
        self,
        transition: Transition,
        result: CheckResult | None,
        outage: float,
        stack: str | None,
        at: int,
        *,
        planned: bool = False,
    ) -> None:
        state = transition.state
        stale = state.error_type is ErrorType.STALE
        error_type = state.error_type if stale or result is None else result.refined_error_type or state.error_type
        before = "pending" if transition.before is None else transition.before.value
        attributes: dict[str, str | float] = {
            names.EVENT_COMPONENT: transition.component,
            names.EVENT_FROM: before,
            names.EVENT_TO: transition.after.value,
        }
        text = f"{transition.component}: {before} -> {transition.after}"
        if transition.after is not Status.PASS:
            attributes[names.EVENT_ERROR_TYPE] = str(error_type)
            message = "its last result is too old to be believed" if stale else result.message if result else None
            text += f" ({error_type}{f': {message}' if message else ''})"
        elif outage:
            attributes[names.EVENT_OUTAGE] = outage
            text += f" (after {outage:.1f} s)"
        if result is not None and result.duration is not None and not stale:
            attributes[names.EVENT_DURATION] = result.duration
        self._transitions.tell(_level(transition, planned=planned), text, attributes, at=at, stack=stack)


def _level(transition: Transition, *, planned: bool) -> int:
    """How loud a transition is told: what the application has planned is no error, nor is how it begins."""
    if not planned or transition.after is not Status.FAIL:
        return _LEVELS[transition.after]
    return logging.INFO if transition.before is None else logging.WARNING
