"""The telemetry's own way out, by the SDK's exporters and processors, to a receiver that takes, refuses and hangs."""

import asyncio
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from otel_health import CheckFunc, CheckResult
from otel_health.checks import otlp
from tests.checks.doors import FAULTS, Behaviour, door, fault, result, saying
from tests.doubles import eventually
from tests.otlp_receiver import Receiver, receiving

INTERNAL = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
HOUR_MILLIS = 3_600_000.0


@pytest.fixture
def receiver(caplog: pytest.LogCaptureFixture) -> Iterator[Receiver]:
    """A receiver that listens; what the exporters log of it is not shown."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    with receiving() as made:
        yield made


def said(found: CheckResult) -> tuple[str, str | None]:
    """The verdict, and why."""
    return found.status, found.message


# Whether the receiver takes an export.


async def test_a_receiver_takes_an_export_with_nothing_in_it(receiver: Receiver) -> None:
    """It passes, and nothing has arrived but the empty request."""
    found = await result(otlp.accepts(f"{receiver.url}/v1/traces"))

    assert said(found) == ("pass", None)
    assert [len(request.resource_spans) for request in receiver.traces] == [0]


async def test_a_receiver_that_wants_to_know_who_asks(receiver: Receiver) -> None:
    """The headers of the exporter let the check in, and without them it fails."""
    receiver.token = "s3cret"
    url = f"{receiver.url}/v1/traces"

    assert said(await result(otlp.accepts(url))) == ("fail", "answered 401")
    assert (await result(otlp.accepts(url, headers={"Authorization": "Bearer s3cret"}))).status == "pass"


async def test_the_path_of_no_signal_fails(receiver: Receiver) -> None:
    """The exporter's base address is not the signal's."""
    assert said(await result(otlp.accepts(receiver.url))) == ("fail", "answered 404")


async def test_a_server_that_says_yes_to_everything_is_no_receiver() -> None:
    """A proxy's sign-in page is a 200, too."""
    async with door(saying(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>sign in")) as page:
        found = await result(otlp.accepts(f"http://127.0.0.1:{page.port}/v1/traces"))

    assert said(found) == ("fail", "answered 200, but not as a receiver of OTLP does")


@FAULTS
async def test_a_receiver_that_is_not_well(behaviour: Behaviour | None, said: set[str]) -> None:
    """Whatever it does, the check ends in time and says what it was."""
    found = await fault(lambda port: otlp.accepts(f"http://127.0.0.1:{port}/v1/traces"), behaviour)

    assert found.status == "fail"
    assert found.refined_error_type in said


@pytest.mark.parametrize("endpoint", ["grpc://collector:4317", "collector:4318", "http://u:s3cret@collector/v1/traces"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    """At once, and without repeating it."""
    with pytest.raises(ValueError, match=r"^otlp: the URL") as refused:
        otlp.accepts(endpoint)

    assert "s3cret" not in str(refused.value)


# Whether what is exported arrives.


@contextmanager
def tracing(exporter: OTLPSpanExporter) -> Iterator[TracerProvider]:
    """An application's tracing, which exports as soon as it is told to."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=HOUR_MILLIS))
    try:
        yield provider
    finally:
        provider.shutdown()


async def export(provider: TracerProvider) -> None:
    """Make a span and have it exported."""
    provider.get_tracer("orders").start_span("order").end()
    await asyncio.to_thread(provider.force_flush)


async def test_exports_that_arrive_and_that_do_not(receiver: Receiver) -> None:
    """Passing while nothing was lost; failing while the last export was; a warning once, when one was lost between."""
    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces")
    check = otlp.exports(exporter)
    with tracing(exporter) as provider:
        assert (await result(check)).observations == {"exports": 0, "failed": 0}
        await export(provider)
        assert (await result(check)).observations == {"exports": 1, "failed": 0}
        assert len(receiver.traces) == 1

        receiver.refuses = True
        await export(provider)
        lost = "the last export failed, and what was in it is lost"
        assert said(await result(check)) == ("fail", lost)
        assert said(await result(check)) == ("fail", lost)

        await export(provider)
        receiver.refuses = False
        await export(provider)
        found = await result(check)
        assert said(found) == ("warn", "1 of 2 exports failed, and what was in them is lost")
        assert found.observations == {"exports": 2, "failed": 1}
        assert (await result(check)).status == "pass"


async def test_a_receiver_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """The exporter tries again until its own timeout, and what it had is lost."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    exporter = OTLPSpanExporter("http://127.0.0.1:9/v1/traces", timeout=0.2)
    check = otlp.exports(exporter)
    with tracing(exporter) as provider:
        await export(provider)

        assert (await result(check)).status == "fail"


async def test_an_export_that_does_not_end(receiver: Receiver) -> None:
    """One that is under way for too long fails, and passes when it has ended after all."""
    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces")
    check = otlp.exports(exporter, stuck_after=0.001)
    receiver.answers.clear()
    with tracing(exporter) as provider:
        exporting = asyncio.create_task(export(provider))
        await becomes_message(check, "an export has been under way for 0 s")
        receiver.answers.set()
        await exporting

        assert (await result(check)).status == "pass"


async def test_metrics_are_exported_in_any_case(receiver: Receiver) -> None:
    """So their silence means something: it fails, and passes when something is exported."""
    exporter = OTLPMetricExporter(f"{receiver.url}/v1/metrics")
    check = otlp.exports(exporter, silent_after=0.001)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=HOUR_MILLIS)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("orders").create_counter("orders").add(1)
    await becomes_message(check, "nothing has been exported for 0 s")
    provider.force_flush()

    assert len(receiver.metrics) == 1
    assert (await result(otlp.exports(exporter, silent_after=60.0))).status == "pass"
    provider.shutdown()


async def becomes_message(check: CheckFunc, message: str) -> None:
    """Run a check until this is what it says."""
    async with asyncio.timeout(10.0):
        while (await result(check)).message != message:  # noqa: ASYNC110 - what it waits for is in other threads.
            await asyncio.sleep(0.01)


async def test_an_exporter_of_ones_own_is_left_as_it_was() -> None:
    """What it returns and raises comes through; what is no success is none."""

    class Exporter:
        def export(self, batch: str, *, timeout_millis: float = 0) -> tuple[str, float]:
            """Export nothing."""
            if batch == "spoilt":
                raise KeyError(batch)
            return batch, timeout_millis

    exporter = Exporter()
    check = otlp.exports(exporter)

    assert exporter.export("batch", timeout_millis=3) == ("batch", 3)
    with pytest.raises(KeyError):
        exporter.export("spoilt")
    assert (await result(check)).observations == {"exports": 2, "failed": 2}


async def test_a_forked_child_waits_for_no_export_of_its_parent(receiver: Receiver) -> None:
    """What is under way in the parent ends there."""
    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces")
    check: Any = otlp.exports(exporter, stuck_after=0.001)
    receiver.answers.clear()
    with tracing(exporter) as provider:
        exporting = asyncio.create_task(export(provider))
        await becomes_message(check, "an export has been under way for 0 s")
        child = forked(lambda: check().send(None))
        status = await asyncio.to_thread(os.waitpid, child, 0)
        receiver.answers.set()
        await exporting

    assert os.waitstatus_to_exitcode(status[1]) == 0


def forked(ask: Callable[[], object]) -> int:
    """The process id of a child that asks, and ends well if that stops; one that hangs dies."""
    with warnings.catch_warnings(action="ignore"):  # That threads are alive is what is tested.
        child = os.fork()
    if child:
        return child
    signal.alarm(20)
    code = 1
    try:
        ask()
    except StopIteration:
        code = 0
    finally:
        os._exit(code)


def test_what_is_no_exporter_is_refused() -> None:
    """A processor is none, and neither is what cannot be stood before."""

    class Sealed:
        __slots__ = ()

        def export(self, batch: object) -> None:
            """Export nothing."""

    with pytest.raises(TypeError, match="str is no exporter"):
        otlp.exports("http://collector:4318")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the export of Sealed cannot be stood before"):
        otlp.exports(Sealed())
    with pytest.raises(ValueError, match="silent_after=0"):
        otlp.exports(OTLPSpanExporter(), silent_after=0)


# Whether the queues hold.


@contextmanager
def queueing(monkeypatch: pytest.MonkeyPatch, exporter: Any) -> Iterator[tuple[TracerProvider, InMemoryMetricReader]]:
    """An application's tracing with a queue of ten that tells of itself."""
    monkeypatch.setenv(INTERNAL, "true")
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    queue = BatchSpanProcessor(
        exporter,
        max_queue_size=10,
        max_export_batch_size=1,
        schedule_delay_millis=HOUR_MILLIS,
        meter_provider=meters,
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    try:
        yield provider, reader
    finally:
        provider.shutdown()
        meters.shutdown()


async def test_a_queue_that_fills_and_overflows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It passes, warns when it is almost full, fails when something was dropped, and passes when it has run empty."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    with receiving() as receiver:
        receiver.answers.clear()
        exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces")
        with queueing(monkeypatch, exporter) as (provider, reader):
            check = otlp.queue_use(reader)

            def make(spans: int) -> None:
                for _ in range(spans):
                    provider.get_tracer("orders").start_span("order").end()

            make(1)
            await eventually(lambda: taken(reader) == 0)  # The exporter has it, and will not give it back.
            make(5)
            assert (await result(check)).observations == {"queue_use": 0.5, "dropped": 0}
            make(4)
            assert said(await result(check)) == ("warn", "queue_use is 0.9; warn is at 0.8")
            make(4)
            full = await result(check)
            assert said(full) == ("fail", "3 were dropped, since a queue was full")
            assert full.observations == {"queue_use": 1.0, "dropped": 3}
            assert (await result(check)).status == "warn"

            receiver.answers.set()
            await asyncio.to_thread(provider.force_flush)
            assert (await result(check)).observations == {"queue_use": 0, "dropped": 0}


def taken(reader: InMemoryMetricReader) -> float:
    """How many spans wait in the queue."""
    data: Any = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return float(next(m.data.data_points[0].value for m in metrics if m.name.endswith("queue.size")))


async def test_an_sdk_that_tells_nothing_fails(receiver: Receiver) -> None:
    """Silence is no health; the message says what to set."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    processor = SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces"))
    found = await result(otlp.queue_use(reader))

    assert found.status == "fail"
    assert INTERNAL in (found.message or "")
    processor.shutdown()
    meters.shutdown()


def test_what_is_no_reader_is_refused() -> None:
    """The error says what to pass."""
    with pytest.raises(TypeError, match="MeterProvider is no InMemoryMetricReader"):
        otlp.queue_use(MeterProvider())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="warn"):
        otlp.queue_use(InMemoryMetricReader(), warn=float("nan"))
