"""Transitions as events of OpenTelemetry: one of each, whatever else an application has configured."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_health import Checker, Degraded, Status
from tests.doubles import Switch, eventually, failing, passing

SECRET = "hunter2"


class Events(LoggerProvider):
    """A logger provider that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.add_log_record_processor(SimpleLogRecordProcessor(self.kept))

    @property
    def records(self) -> list[LogRecord]:
        """The log records that came, in their order."""
        return [each.log_record for each in self.kept.get_finished_logs()]

    @property
    def names(self) -> list[object]:
        """The names of the events; handlers of OpenTelemetry before 0.66 leave them among the attributes."""
        return [each.event_name or (each.attributes or {}).get("otel.event.name") for each in self.records]


@pytest.fixture
def events() -> Events:
    """Where events end up."""
    return Events()


def attributes_of(record: LogRecord) -> dict[str, Any]:
    """What a query may ask for."""
    return dict(record.attributes or {})


@contextmanager
def bridged(logger: logging.Logger, provider: LoggerProvider, level: int = logging.NOTSET) -> Iterator[None]:
    """OpenTelemetry's own handler on this logger, as its auto-instrumentation puts it on the root."""
    handler = LoggingHandler(level, provider)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def through_the_day(**options: Any) -> Checker:
    """A component passes, fails, fails, warns and passes again."""
    switch = Switch()
    checker = Checker(ttl=1e-9, **options)
    checker.add("redis", switch)
    for error in (None, ConnectionError(f"redis://:{SECRET}@cache/0"), ConnectionError(), Degraded("slow"), None):
        switch.error = error
        await checker.run()
    return checker


async def test_a_transition_is_an_event(events: Events) -> None:
    """Named, with its severity, its line as body and what a query asks for as attributes; a repeat is none."""
    before = time.time_ns()
    await through_the_day(logger_provider=events)

    told = events.records
    first, failed, warned, back = map(attributes_of, told)

    assert {record.event_name for record in told} == {"otel_health.transition"}
    assert [(record.severity_number, record.severity_text) for record in told] == [
        (SeverityNumber.INFO, "INFO"),
        (SeverityNumber.ERROR, "ERROR"),
        (SeverityNumber.WARN, "WARN"),
        (SeverityNumber.INFO, "INFO"),
    ]
    assert told[1].body == "redis: pass -> fail (ConnectionError: redis://***@cache/0)"
    assert first.pop("otel_health.duration") >= 0
    assert first == {"otel_health.component": "redis", "otel_health.from": "pending", "otel_health.to": "pass"}
    assert failed["otel_health.error_type"] == "ConnectionError"
    assert warned["otel_health.error_type"] == "degraded"
    assert back.keys() >= {"otel_health.component", "otel_health.from", "otel_health.to", "otel_health.duration"}
    assert SECRET not in str([(record.body, record.attributes) for record in told])
    assert before <= (told[0].timestamp or 0) <= (told[3].timestamp or 0) <= time.time_ns()


async def test_an_outage_is_measured(events: Events) -> None:
    """In seconds, when the component is back."""
    switch = Switch()
    checker = Checker(ttl=1e-9, logger_provider=events)
    checker.add("redis", switch)
    for error in (ConnectionError("refused"), None):
        switch.error = error
        await checker.run()

    assert attributes_of(events.records[-1])["otel_health.outage_seconds"] > 0


async def test_an_event_and_the_span_of_its_failure_find_each_other(events: Events) -> None:
    """By trace and span id."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    await through_the_day(logger_provider=events, tracer_provider=tracers)

    span = spans.get_finished_spans()[0].context

    assert (events.records[1].trace_id, events.records[1].span_id) == (span.trace_id, span.span_id)
    assert events.records[3].trace_id == 0


async def test_a_line_names_the_span_too(caplog: pytest.LogCaptureFixture) -> None:
    """For a world that has log lines only."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    caplog.set_level(logging.INFO)
    await through_the_day(tracer_provider=tracers)

    span = spans.get_finished_spans()[0].context
    failed = vars(caplog.records[1])

    assert failed["otel_health.trace_id"] == f"{span.trace_id:032x}"
    assert failed["otel_health.span_id"] == f"{span.span_id:016x}"
    assert failed["otel.event.name"] == "otel_health.transition"


@pytest.mark.parametrize("where", ["otel_health", "otel_health.of_a_child", "the global one"])
async def test_a_bridge_makes_no_second_event(where: str, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry's handler takes the lines, the line is the event, name, span and attributes included."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    logger, above = logging.getLogger("otel_health.of_a_child"), logging.getLogger("otel_health")
    logger.setLevel(logging.INFO)
    options: dict[str, Any] = {"logger_provider": events}
    if where == "the global one":
        monkeypatch.setattr("otel_health.transition_log.get_logger_provider", lambda: events)
        options = {}
    with bridged(logger if where == "otel_health.of_a_child" else above, events):
        await through_the_day(logger=logger, tracer_provider=tracers, **options)

    told = events.records
    assert events.names == ["otel_health.transition"] * 4
    assert [record.severity_text for record in told] == ["INFO", "ERROR", "WARN", "INFO"]
    assert attributes_of(told[1])["otel_health.to"] == "fail"
    assert told[1].span_id == spans.get_finished_spans()[0].context.span_id


@pytest.mark.parametrize("silent", ["logger", "bridge", "no propagation", "another provider"])
async def test_what_a_bridge_does_not_take_is_an_event_all_the_same(silent: str, events: Events) -> None:
    """Each transition is one event, whatever the levels of the log lines."""
    logger = logging.getLogger("otel_health.apart")
    logger.setLevel(logging.ERROR if silent == "logger" else logging.INFO)
    logger.propagate = silent != "no propagation"
    provider = Events() if silent == "another provider" else events
    with bridged(logging.getLogger("otel_health"), provider, logging.ERROR if silent == "bridge" else logging.NOTSET):
        await through_the_day(logger=logger, logger_provider=events)

    assert events.names == ["otel_health.transition"] * 4


async def test_without_a_provider_there_are_lines_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The API's own provider does nothing."""
    caplog.set_level(logging.INFO)
    await through_the_day()

    assert len(caplog.records) == 4


async def test_where_nobody_listens_nothing_is_told(threads: Callable[[], int]) -> None:
    """No thread is woken for a line and an event that nobody would see."""
    silent = logging.Logger("silent", level=logging.CRITICAL)
    checker = Checker(logger=silent, trace="never", ttl=1e-9)
    checker.add("postgres", passing())
    checker.add("redis", failing(ValueError("no")))

    await checker.run()

    assert threads() == 0


async def test_going_stale_is_an_event(events: Events) -> None:
    """Told by whoever notices first; there is no span that it could belong to."""
    now = [0.0]
    checker = Checker(clock=lambda: now[0], logger_provider=events)
    checker.add("redis", passing())
    await checker.run()
    now[0] = 1000.0
    checker.report()
    await eventually(lambda: len(events.records) == 2)

    stale = events.records[1]
    assert attributes_of(stale)["otel_health.error_type"] == "stale"
    assert (stale.severity_number, stale.trace_id) == (SeverityNumber.ERROR, 0)


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_traceback_is_only_told_when_asked_for(allowed: bool, events: Events) -> None:  # noqa: FBT001
    """As an attribute of OpenTelemetry's own name, and not in the body."""
    checker = Checker(tracebacks=allowed, logger_provider=events)
    checker.add("bad", failing(ConnectionError("refused")))
    await checker.run()

    (failed,) = events.records
    assert ("exception.stacktrace" in (failed.attributes or {})) is allowed
    assert failed.body == "bad: pending -> fail (ConnectionError: refused)"


class Faulty(LogRecordProcessor):
    """A processor that does something else."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self.fault = fault

    def on_emit(self, log_record: object) -> None:  # noqa: ARG002 - the interface's.
        """Do what is wrong."""
        self.fault()

    def shutdown(self) -> None:
        """Nothing to shut down."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the interface's.
        """Nothing to flush."""
        return True


async def test_a_log_processor_that_hangs_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the loop nor a verdict; once it lets go, everything is told."""
    caplog.set_level(logging.INFO)
    let_go = threading.Event()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Faulty(let_go.wait))  # type: ignore[arg-type]
    switch = Switch()
    checker = Checker(logger_provider=provider, ttl=1e-9)
    checker.add("redis", switch)
    longest, last, loop = 0.0, time.monotonic(), asyncio.get_running_loop()

    def tick() -> None:
        nonlocal longest, last
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        timer[0] = loop.call_later(0.01, tick)

    timer = [loop.call_soon(tick)]
    for error, status in ((None, Status.PASS), (ConnectionError(), Status.FAIL), (None, Status.PASS)):
        switch.error = error
        assert (await checker.run()).status is status
    timer[0].cancel()

    assert longest < 0.5
    let_go.set()
    await eventually(lambda: len(caplog.records) == 3)


async def test_a_log_processor_that_raises_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """What was lost is counted."""

    def raising() -> None:
        raise SystemExit(1)

    caplog.set_level(logging.INFO)
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Faulty(raising))
    await through_the_day(logger_provider=provider)

    lines = [record.getMessage() for record in caplog.records if record.name == "otel_health"]
    assert len([line for line in lines if line.startswith("redis: ")]) == 4
    assert "1 events were lost: a log handler or span exporter hung or raised" in lines


def test_what_is_no_provider_is_refused() -> None:
    """At once, with what would be right."""
    with pytest.raises(TypeError, match="logger_provider is a RootLogger; pass a LoggerProvider"):
        Checker(logger_provider=logging.getLogger())  # type: ignore[arg-type]
