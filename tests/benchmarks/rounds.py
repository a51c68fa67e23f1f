"""What a round costs beside the bare primitive: TaskGroup, a timeout each, a histogram recorded for each run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, CheckFunc
from otel_health.metrics import DURATION_BOUNDS
from tests.benchmarks.interleaved import in_turns, median, ratio

Round = Callable[[], Awaitable[object]]

NUMBERS: Final = {"at once": 1000, "suspending": 1000, "sync": 200}
"""How many checks a round has; threads are dear, so there are fewer."""
REPEATS: Final = 5
"""Rounds in one slice."""


async def at_once() -> None:
    """A check that finishes without waiting."""


async def suspending() -> None:
    """A check that waits for the loop once."""
    await asyncio.sleep(0)


def synchronous() -> None:
    """A check that runs in a thread."""


async def in_thread() -> None:
    """The same, as the primitive runs it."""
    await asyncio.to_thread(synchronous)


def primitive(check: Callable[[], Awaitable[None]], number: int) -> Round:
    """A TaskGroup with `asyncio.timeout` around each check, and one `Histogram.record` for each."""
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("primitive")
    bounds = list(DURATION_BOUNDS)
    histogram = meter.create_histogram("duration", "s", explicit_bucket_boundaries_advisory=bounds)
    names = [{"component": f"check-{each}"} for each in range(number)]

    async def one(attributes: dict[str, str]) -> None:
        begun = time.monotonic()
        async with asyncio.timeout(3.0):
            await check()
        histogram.record(time.monotonic() - begun, attributes)

    async def whole() -> None:
        async with asyncio.TaskGroup() as group:
            for attributes in names:
                group.create_task(one(attributes))

    return whole


def ours(check: CheckFunc, number: int) -> Round:
    """A Checker's round, everything included: deadline, state, thresholds, metrics."""
    checker = Checker(ttl=1e-9, meter_provider=MeterProvider([InMemoryMetricReader()]))
    for each in range(number):
        checker.add(f"check-{each}", check)

    async def whole() -> None:
        renewal = checker.renewal("readyz")
        assert renewal is not None, "everything is older than the ttl, so a round begins"
        await renewal

    return whole


def cpu_seconds(runner: asyncio.Runner, work: Round) -> float:
    """Processor time of one round, in all threads."""

    async def repeated() -> float:
        begun = time.process_time()
        for _ in range(REPEATS):
            await work()
            await asyncio.sleep(0)  # What a round leaves to the loop's next turn is its own.
        return time.process_time() - begun

    return runner.run(repeated()) / REPEATS


def figures(*, quick: bool) -> dict[str, dict[str, float]]:
    """Each kind of check: ratio to the primitive, and microseconds for each check."""
    kinds = {"at once": (at_once, at_once), "suspending": (suspending, suspending), "sync": (synchronous, in_thread)}
    found = {}
    with asyncio.Runner() as runner:
        for kind, (check, bare) in kinds.items():
            number = NUMBERS[kind]
            works = {"ours": ours(check, number), "primitive": primitive(bare, number)}
            measures = {name: partial(cpu_seconds, runner, work) for name, work in works.items()}
            in_turns(measures, 1)
            turns = in_turns(measures, 3 if quick else 21)
            each = {f"{name}_us": median(turns, name) / number * 1e6 for name in works}
            found[kind] = {"ratio": ratio(turns, "ours", "primitive"), **each}
    return found
