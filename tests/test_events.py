"""What is told as it happens: transitions, failure spans, slow runs; and how quiet checks are."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from otel_health import Checker, Degraded, Status
from tests.doubles import Blocking, Switch, eventually, failing, passing

SECRET = "hunter2"


def transitions(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """The level and text of every line the library has logged."""
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "otel_health"]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Where the spans of `provider` end up."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    """A tracer provider that samples everything."""
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made


class Hostile(Exception):
    """An exception that cannot be asked for anything."""

    def __getattr__(self, name: str) -> object:
        raise RecursionError(name)


async def test_a_hostile_exception_is_told_of_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """Listeners hear of it, and there is a line."""
    heard: list[str] = []
    checker = Checker()
    checker.add("db", failing(Hostile("no")))
    checker.subscribe(lambda transition: heard.append(transition.component))

    await checker.run()

    assert heard == ["db"]
    assert "db: pending -> fail" in caplog.text


async def test_a_transition_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """ERROR to fail, WARNING to warn, INFO back to pass; a repeat is silent."""
    caplog.set_level(logging.INFO)
    switch = Switch()
    checker = Checker(ttl=1e-9)
    checker.add("redis", switch)
    for error in (None, None, ConnectionError("refused"), ConnectionError("refused"), Degraded("slow"), None):
        switch.error = error
        await checker.run()

    lines = transitions(caplog)

    assert [level for level, _ in lines] == [logging.INFO, logging.ERROR, logging.WARNING, logging.INFO]
    assert lines[1][1] == "redis: pass -> fail (ConnectionError: refused)"
    assert lines[2][1] == "redis: fail -> warn (degraded: slow)"


async def test_a_component_may_be_called_as_secrets_are(caplog: pytest.LogCaptureFixture) -> None:
    """What it speaks for is no secret, and neither is its status; what its check says may hold one."""
    checker = Checker()
    checker.add("vault-token", failing(ConnectionError(f"postgresql://me:{SECRET}@db/orders refused")))

    await checker.run()

    assert transitions(caplog) == [
        (logging.ERROR, "vault-token: pending -> fail (ConnectionError: postgresql://***@db/orders refused)")
    ]


async def test_a_transition_carries_structured_attributes(
    caplog: pytest.LogCaptureFixture, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Component, from, to, error type, duration, outage and the failure span's trace id."""
    switch = Switch()
    checker = Checker(ttl=1e-9, tracer_provider=provider)
    checker.add("redis", switch)
    caplog.set_level(logging.INFO)
    await checker.run()
    switch.error = ConnectionError("refused")
    await checker.run()
    switch.error = None
    await checker.run()

    failed, back = caplog.records[-2:]

    (span,) = spans.get_finished_spans()
    assert vars(failed)["otel_health.component"] == "redis"
    assert (vars(failed)["otel_health.from"], vars(failed)["otel_health.to"]) == ("pass", "fail")
    assert vars(failed)["otel_health.error_type"] == "ConnectionError"
    assert vars(failed)["otel_health.duration"] >= 0
    assert vars(failed)["otel_health.trace_id"] == trace.format_trace_id(span.context.trace_id)
    assert vars(back)["otel_health.outage_seconds"] > 0


async def test_a_failing_run_leaves_one_span(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    """With the exception's type and its redacted message, and no traceback."""
    checker = Checker(tracer_provider=provider)
    checker.add("bad", failing(ConnectionError(f"redis://:{SECRET}@cache/0")))
    checker.add("good", passing())
    await checker.run()

    (span,) = spans.get_finished_spans()

    assert span.name == "otel_health.check"
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ConnectionError"
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time >= span.start_time
    (event,) = span.events
    assert event.attributes == {"exception.type": "ConnectionError", "exception.message": "redis://***@cache/0"}
    assert SECRET not in span.to_json()


@pytest.mark.parametrize(("policy", "expected"), [("failures", ["bad"]), ("always", ["bad", "good"]), ("never", [])])
async def test_which_runs_leave_a_span(
    policy: str, expected: list[str], provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """As the Checker's `trace` says."""
    checker = Checker(tracer_provider=provider, trace=policy)  # type: ignore[arg-type]
    checker.add("bad", failing())
    checker.add("good", passing())
    await checker.run()

    components = [dict(span.attributes or {})["otel_health.component"] for span in spans.get_finished_spans()]

    assert sorted(map(str, components)) == expected


async def test_tracebacks_are_only_told_when_asked_for(
    caplog: pytest.LogCaptureFixture, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """They can hold secrets."""
    for allowed in (False, True):
        caplog.clear()
        spans.clear()
        checker = Checker(tracebacks=allowed, tracer_provider=provider)
        checker.add("bad", failing())
        await checker.run()
        (span,) = spans.get_finished_spans()
        assert ("Traceback" in caplog.text) is allowed
        assert ("exception.stacktrace" in (span.events[0].attributes or {})) is allowed


@pytest.mark.parametrize("kind", ["async", "sync", "awaitable"])
async def test_what_a_check_does_is_no_traffic(
    kind: str, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Its context is suppressed, and spans made in spite of that are not sampled."""
    seen: list[object] = []

    def work() -> None:
        seen.extend(
            otel_context.get_value(key)
            for key in (
                otel_context._SUPPRESS_INSTRUMENTATION_KEY,  # noqa: SLF001
                "suppress_instrumentation",
            )
        )
        with provider.get_tracer("driver").start_as_current_span("SELECT"):
            pass

    async def asynchronous() -> None:
        work()
        await asyncio.sleep(0)
        work()

    checks = {"async": asynchronous, "sync": work, "awaitable": lambda: asynchronous()}
    checker = Checker(tracer_provider=provider)
    checker.add("postgres", checks[kind])
    with provider.get_tracer("application").start_as_current_span("request"):
        await checker.run()

    assert set(seen) == {True}
    assert [span.name for span in spans.get_finished_spans()] == ["request"]


async def test_listeners_are_not_quiet() -> None:
    """What the application does about a transition is its own traffic."""
    seen: list[object] = []
    checker = Checker()
    checker.add("redis", passing())
    checker.subscribe(lambda _: seen.append(otel_context.get_value("suppress_instrumentation")))

    await checker.run()

    assert seen == [None]


class Hanging(SpanExporter):
    """An exporter that hangs until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface's.
        self.let_go.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.let_go.set()


async def test_an_exporter_that_hangs_holds_up_nobody() -> None:
    """Neither the loop nor a verdict, even when it exports on the caller's thread."""
    exporter = Hanging()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    checker = Checker(tracer_provider=provider, ttl=1e-9)
    checker.add("redis", failing())
    begun = time.monotonic()

    for _ in range(3):
        assert (await checker.run()).status is Status.FAIL

    assert time.monotonic() - begun < 2
    exporter.let_go.set()


async def test_a_log_handler_that_raises_holds_up_nobody() -> None:
    """The loss is told when the next event can be."""

    class Broken(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.broken = True
            self.lines: list[str] = []

        def handle(self, record: logging.LogRecord) -> bool:
            if self.broken:
                raise SystemExit(1)
            self.lines.append(record.getMessage())
            return True

    handler = Broken()
    logger = logging.Logger("application")
    logger.addHandler(handler)
    switch = Switch()
    switch.error = ConnectionError("refused")
    checker = Checker(logger=logger, ttl=1e-9)
    checker.add("redis", switch)

    assert (await checker.run()).status is Status.FAIL
    switch.error = None
    assert (await checker.run()).status is Status.PASS
    switch.error = ConnectionError("refused")
    assert (await checker.run()).status is Status.FAIL
    handler.broken, switch.error = False, None
    assert (await checker.run()).status is Status.PASS

    assert handler.lines[0] == "3 events were lost: a log handler or span exporter hung or raised"
    assert handler.lines[1].startswith("redis: fail -> pass (after ")


async def test_every_run_is_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """With its duration."""
    caplog.set_level(logging.DEBUG, logger="otel_health")
    checker = Checker(ttl=1e-9)
    checker.add("redis", passing())
    for _ in range(3):
        await checker.run()

    runs = [text for level, text in transitions(caplog) if level == logging.DEBUG]

    assert len(runs) == 3
    assert all(text.startswith("redis: pass in 0.0") for text in runs)


async def test_a_run_close_to_its_deadline_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Until it is fast again."""
    delay = [0.0]

    async def check() -> None:
        await asyncio.sleep(delay[0])

    checker = Checker(ttl=1e-9, timeout=0.5)
    checker.add("slow", check)
    for seconds in (0.41, 0.0, 0.41, 0.41):
        delay[0] = seconds
        await checker.run()

    assert caplog.text.count("of its timeout of 0.5 s") == 2


async def test_no_message_forges_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """Line breaks and control characters are gone."""
    checker = Checker()
    checker.add("redis", failing(ValueError("x\r\nERROR root: forged\x1b[2J\u2028y")))
    await checker.run()

    (line,) = [text for _, text in transitions(caplog)]

    assert line.isprintable()


async def test_a_hung_check_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Timeout, then hung: the status stays, so nothing more is said."""
    blocking = Blocking()
    checker = Checker(timeout=0.05, ttl=1e-9)
    checker.add("stuck", blocking)
    for _ in range(4):
        await checker.run()

    assert len(transitions(caplog)) == 1
    blocking.let_go.set()


async def test_closing_waits_for_what_is_still_to_be_told(caplog: pytest.LogCaptureFixture) -> None:
    """A transition just before the end is not lost with the thread that tells it."""
    checker = Checker()
    checker.add("redis", failing())
    async with checker:
        await eventually(lambda: checker.report().components["redis"].result is not None)

    assert "redis: pending -> fail" in caplog.text
