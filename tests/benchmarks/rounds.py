"""What a round costs beside the bare primitive: TaskGroup, a timeout each, a histogram recorded for each run."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, CheckFunc

Round = Callable[[], Awaitable[object]]


async def at_once() -> None:
    """A check that finishes without waiting."""


async def suspending() -> None:
    """A check that waits for the loop once."""
    await asyncio.sleep(0)


def synchronous() -> None:
    """A check that runs in a thread."""


def primitive(check: Callable[[], Awaitable[None]], number: int) -> Round:
    """A TaskGroup with `asyncio.timeout` around each check, and one `Histogram.record` for each."""
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("primitive")
    histogram = meter.create_histogram("duration", "s", explicit_bucket_boundaries_advisory=[0.005, 0.1, 1.0])
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


def threads_primitive(check: Callable[[], None], number: int) -> Round:
    """`asyncio.to_thread` for each check, with `asyncio.timeout` and one `Histogram.record`."""

    async def in_thread() -> None:
        await asyncio.to_thread(check)

    return primitive(in_thread, number)


def ours(check: CheckFunc, number: int) -> Round:
    """A Checker's round, everything included: deadline, state, thresholds, metrics."""
    checker = Checker(ttl=1e-9, meter_provider=MeterProvider([InMemoryMetricReader()]))
    for each in range(number):
        checker.add(f"check-{each}", check)

    async def whole() -> None:
        renewal = checker.renewal("readyz")
        if renewal is not None:
            await renewal

    return whole


async def timed(work: Round) -> float:
    """Seconds of one round."""
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


async def ratio(first: Round, second: Round, rounds: int = 15) -> tuple[float, float, float]:
    """The median ratio of the first to the second, taken in turns, and both medians in seconds."""
    pairs = []
    for _ in range(3):
        await first()
        await second()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            pairs.append((await timed(first), await timed(second)))
            gc.collect()
    finally:
        gc.enable()
    ratios = [one / other for one, other in pairs]
    return statistics.median(ratios), *(statistics.median(column) for column in zip(*pairs, strict=True))


def figures(number: int = 1000) -> dict[str, dict[str, float]]:
    """Each kind of check: ratio to the primitive, and microseconds for each check."""

    async def measure() -> dict[str, dict[str, float]]:
        found = {}
        for name, check in (("at once", at_once), ("suspending", suspending)):
            found[name] = _row(await ratio(ours(check, number), primitive(check, number)), number)
        few = min(number, 200)
        found["sync"] = _row(await ratio(ours(synchronous, few), threads_primitive(synchronous, few)), few)
        return found

    return asyncio.run(measure())


def _row(measured: tuple[float, float, float], number: int) -> dict[str, float]:
    share, mine, theirs = measured
    return {"ratio": share, "ours_us": mine / number * 1e6, "primitive_us": theirs / number * 1e6}


if __name__ == "__main__":
    for kind, row in figures().items():
        print(f"{kind:12} {row['ratio']:.2f}  ours {row['ours_us']:.1f} us, primitive {row['primitive_us']:.1f} us")
