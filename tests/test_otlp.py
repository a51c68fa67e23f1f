"""Providers that the application already has: OTLP exporters, against a receiver."""

from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import generate_latest

from otel_health import Checker, Degraded
from otel_health.prometheus import PrometheusExporter
from tests.doubles import failing, passing
from tests.otlp_receiver import Receiver, receiving

EVERY_MINUTE = 60_000


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that listens."""
    with receiving() as made:
        yield made


async def degraded() -> None:
    """A check that warns, with an observation."""
    raise Degraded("behind", backlog=12)


async def test_metrics_arrive_over_otlp(receiver: Receiver) -> None:
    """Every instrument under its own name and scope, with the component as attribute."""
    exporter = OTLPMetricExporter(endpoint=f"{receiver.url}/v1/metrics")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=EVERY_MINUTE)])
    checker = Checker(meter_provider=provider)
    checker.add("postgres", passing())
    checker.add("queue", degraded)
    checker.add("redis", failing(), critical=False)
    await checker.run()
    provider.force_flush()
    provider.shutdown()

    (scope,) = receiver.metrics[0].resource_metrics[0].scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}

    assert scope.scope.name == "otel_health"
    assert set(metrics) == {
        "otel_health.check.up",
        "otel_health.check.status",
        "otel_health.check.duration",
        "otel_health.check.failures",
        "otel_health.check.last_run",
        "otel_health.check.last_success",
        "otel_health.check.observation",
        "otel_health.check.abandoned",
        "otel_health.check.error_since",
        "otel_health.check.optional",
        "otel_health.probe.up",
        "otel_health.probe.status",
    }
    up = {
        point.attributes[0].value.string_value: point.as_int
        for point in metrics["otel_health.check.up"].gauge.data_points
    }
    assert up == {"postgres": 1, "queue": 1, "redis": 0}
    assert metrics["otel_health.check.duration"].unit == "s"
    assert {metric.unit for name, metric in metrics.items() if name.endswith(("up", "status", "failures"))} == {""}
    assert not metrics["otel_health.check.status"].sum.is_monotonic
    assert all(metric.description for metric in metrics.values())


def translated(metric: Metric) -> str:
    """The name that Prometheus, VictoriaMetrics and the Collector give to what comes over OTLP: dots become
    underscores, the unit and what counts up are spelt out."""
    unit = {"s": "_seconds", "": ""}[metric.unit]
    return metric.name.replace(".", "_") + unit + ("_total" if metric.sum.is_monotonic else "")


async def test_the_names_are_those_that_a_scrape_shows(receiver: Receiver) -> None:
    """Dashboards and rules need not know which way the metrics came."""
    exporter = OTLPMetricExporter(endpoint=f"{receiver.url}/v1/metrics")
    pushed = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=EVERY_MINUTE)])
    scraped = PrometheusExporter()

    for provider in (pushed, scraped.meter_provider):
        checker = Checker(meter_provider=provider)
        checker.add("postgres", passing())
        checker.add("queue", degraded)
        checker.add("redis", failing(), critical=False)
        checker.engine.record_lag(0.0)
        await checker.run()
    pushed.force_flush()
    pushed.shutdown()

    (scope,) = receiver.metrics[0].resource_metrics[0].scope_metrics
    text = generate_latest(scraped.registry).decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE otel_health")}
    assert {translated(metric) for metric in scope.metrics} == shown


async def test_a_failure_span_arrives_over_otlp(receiver: Receiver) -> None:
    """One span of the failing run, and none of the passing one."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces")))
    checker = Checker(tracer_provider=provider)
    checker.add("postgres", passing())
    checker.add("redis", failing())
    await checker.run()
    provider.force_flush()
    provider.shutdown()

    spans = [span for trace in receiver.traces for span in trace.resource_spans[0].scope_spans[0].spans]

    (span,) = spans
    attributes = {each.key: each.value.string_value for each in span.attributes}
    assert (span.name, attributes["otel_health.component"], span.parent_span_id) == ("otel_health.check", "redis", b"")


async def test_a_receiver_that_is_gone_changes_no_verdict() -> None:
    """The exporter's trouble is the exporter's."""
    exporter = OTLPMetricExporter(endpoint="http://127.0.0.1:9/v1/metrics", timeout=1)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=EVERY_MINUTE)])
    checker = Checker(meter_provider=provider)
    checker.add("postgres", passing())

    assert (await checker.run()).status.up
    provider.shutdown(timeout_millis=500)
