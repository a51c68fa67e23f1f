"""What a scrape of 1,000 components costs beside the exporter's default, and for how long it stalls the loop."""

import asyncio
import statistics
import time
from collections.abc import Callable

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from otel_health import Checker
from otel_health.prometheus import PrometheusExporter
from tests.benchmarks.rounds import at_once


def default(number: int) -> CollectorRegistry:
    """The exporter as it comes: a gauge, a histogram of 15 buckets and a counter for each component."""
    registry = CollectorRegistry()
    meter = MeterProvider([PrometheusMetricReader(registry=registry)]).get_meter("default")
    names = [{"component": f"check-{each}"} for each in range(number)]
    meter.create_observable_gauge("up", [lambda _: [Observation(1, name) for name in names]])
    histogram, counter = meter.create_histogram("duration", "s"), meter.create_counter("runs")
    for name in names:
        histogram.record(0.01, name)
        counter.add(1, name)
    return registry


async def ours(number: int) -> PrometheusExporter:
    """Ours, with all its instruments."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    for each in range(number):
        checker.add(f"check-{each}", at_once)
    await checker.run()
    _kept.append(checker)
    return exporter


_kept: list[Checker] = []


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


async def stall(exporter: PrometheusExporter) -> float:
    """The longest that the loop waits for its turn while a scrape is answered, in seconds."""
    worst = 0.0
    done = False

    async def beat() -> None:
        nonlocal worst
        while not done:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - begun - 0.001)

    beating = asyncio.ensure_future(beat())
    await asyncio.sleep(0.05)
    worst = 0.0
    await exporter.scraped("", zipped=False, patience=30.0)
    done = True
    await beating
    return worst


def figures(number: int = 1000, rounds: int = 7) -> dict[str, float]:
    """The ratio to the default, both in milliseconds, and the median of the longest stall."""

    async def measure() -> dict[str, float]:
        registry, exporter = default(number), await ours(number)
        pairs = [
            (seconds(lambda: generate_latest(exporter.registry)), seconds(lambda: generate_latest(registry)))
            for _ in range(rounds)
        ]
        stalls = [await stall(exporter) for _ in range(rounds)]
        return {
            "ratio": statistics.median(one / other for one, other in pairs),
            "ours_ms": statistics.median(one for one, _ in pairs) * 1e3,
            "default_ms": statistics.median(other for _, other in pairs) * 1e3,
            "stall_ms": statistics.median(stalls) * 1e3,
        }

    return asyncio.run(measure())


if __name__ == "__main__":
    print({name: round(value, 2) for name, value in figures().items()})
