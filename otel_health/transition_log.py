"""Transitions where logs go: an event of OpenTelemetry, and a line of the standard library; one of each."""

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger_provider

from otel_health import names

_SEVERITIES: Final = {
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
}


class TransitionLog:
    """Tells of transitions.

    A handler of OpenTelemetry's that the logger's lines come to makes log records of them. Where there is one, the line
    is the event: it is named as such, and no other is emitted.

    Args:
        logger: A standard-library logger.
        provider: Where events go; None for the global one at the time of the transition.
    """

    def __init__(self, logger: logging.Logger, provider: LoggerProvider | None) -> None:
        self._logger = logger
        self._provider = provider

    def hears(self, level: int) -> bool:
        """Whether anybody would hear of a transition; nobody does where there is but the API's own provider."""
        if self._logger.isEnabledFor(level):
            return True
        return not type(self._provider or get_logger_provider()).__module__.startswith("opentelemetry._logs")

    def tell(
        self, level: int, text: str, attributes: Mapping[str, str | float], *, at: int, stack: str | None = None
    ) -> None:
        """Tell of one transition, and of the span that is current.

        Args:
            level: As `logging` has it.
            text: What a reader reads.
            attributes: What a query asks for.
            at: When it was, in nanoseconds since the Unix epoch.
            stack: The traceback of what the run raised, where that may be told.
        """
        try:
            if not self._bridged(level):
                self._emit(level, text, attributes, at, stack)
        finally:
            self._log(level, text, attributes, stack)

    def _emit(self, level: int, text: str, attributes: Mapping[str, str | float], at: int, stack: str | None) -> None:
        severity = _SEVERITIES[level]
        (self._provider or get_logger_provider()).get_logger(names.SCOPE).emit(
            timestamp=at,
            severity_number=severity,
            severity_text=severity.name,
            body=text,
            attributes=dict(attributes) if stack is None else {**attributes, "exception.stacktrace": stack},
            event_name=names.TRANSITION,
        )

    def _log(self, level: int, text: str, attributes: Mapping[str, str | float], stack: str | None) -> None:
        extra = {names.EVENT_NAME: names.TRANSITION, **attributes}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            extra[names.EVENT_TRACE_ID] = trace.format_trace_id(span.trace_id)
            extra[names.EVENT_SPAN_ID] = trace.format_span_id(span.span_id)
        self._logger.log(level, "%s", text if stack is None else f"{text}\n{stack}", extra=extra)

    def _bridged(self, level: int) -> bool:
        """Whether a line of this level comes to where its event would go."""
        if not self._logger.isEnabledFor(level):
            return False
        return any(level >= handler.level and self._bridges(handler) for handler in _handlers(self._logger))

    def _bridges(self, handler: logging.Handler) -> bool:
        # There are two of them, and the API knows neither; what both call their provider is no public name.
        if not type(handler).__module__.startswith("opentelemetry."):
            return False
        return self._provider is None or getattr(handler, "_logger_provider", None) is self._provider


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that a line of this logger comes to."""
    above: logging.Logger | None = logger
    while above is not None:
        yield from above.handlers
        above = above.parent if above.propagate else None
