"""What a scrape of 1,000 components costs beside the exporter's default, and for how long it stalls the loop."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from otel_health import Checker
from otel_health.prometheus import PrometheusExporter
from tests.benchmarks.asked import answer
from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.rounds import at_once

NUMBER: Final = 1000
BEAT: Final = 0.001
"""Seconds that the beat sleeps for."""


def default() -> CollectorRegistry:
    """The exporter as it comes: a gauge, a histogram of 15 buckets and a counter for each component."""
    registry = CollectorRegistry()
    meter = MeterProvider([PrometheusMetricReader(registry=registry)]).get_meter("default")
    names = [{"component": f"check-{each}"} for each in range(NUMBER)]
    meter.create_observable_gauge("up", [lambda _: [Observation(1, name) for name in names]])
    histogram, counter = meter.create_histogram("duration", "s"), meter.create_counter("runs")
    for name in names:
        histogram.record(0.01, name)
        counter.add(1, name)
    return registry


async def beating(app: ASGIApp | None) -> float:
    """The longest that the loop waits for its turn while a scrape is answered, or as long while nothing is."""
    worst, done = 0.0, False

    async def beat() -> None:
        nonlocal worst
        while not done:
            begun = time.perf_counter()
            await asyncio.sleep(BEAT)
            worst = max(worst, time.perf_counter() - begun - BEAT)

    heart = asyncio.ensure_future(beat())
    await asyncio.sleep(0.02)
    worst = 0.0
    await (asyncio.sleep(0.1) if app is None else answer(app, "/metrics"))
    await asyncio.sleep(2 * BEAT)
    done = True
    await heart
    return worst * 1e3


async def cpu_ms(app: ASGIApp) -> float:
    """Processor time of one scrape, as it is asked for."""
    begun = time.process_time()
    await answer(app, "/metrics")
    return (time.process_time() - begun) * 1e3


def default_cpu_ms(registry: CollectorRegistry) -> float:
    """Processor time of the default's text alone."""
    begun = time.process_time()
    generate_latest(registry)
    return (time.process_time() - begun) * 1e3


def figures(*, quick: bool) -> dict[str, float]:
    """The ratio to the default, both in milliseconds, and the median of the longest stalls."""
    rounds = 2 if quick else 11
    registry = default()
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider, interval=3600.0)
    for each in range(NUMBER):
        checker.add(f"check-{each}", at_once)
    app = Starlette(routes=[exporter.route("/metrics")])
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(stack.enter_async_context(checker))
        runner.run(checker.run())
        samples = runner.run(answer(app, "/metrics")).count(b"otel_health_check_up{")
        assert samples == NUMBER, f"the scrape shows {samples} components"
        found = in_turns(
            {
                "ours": lambda: runner.run(cpu_ms(app)),
                "default": lambda: default_cpu_ms(registry),
                "stall": lambda: runner.run(beating(app)),
                "idle": lambda: runner.run(beating(None)),
            },
            rounds,
        )
        runner.run(stack.aclose())
    return {"ratio": ratio(found, "ours", "default"), **{f"{name}_ms": median(found, name) for name in found}}
