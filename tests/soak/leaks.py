"""A million runs leave nothing behind, and a thousand of each check there is leave nothing at its server either."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import threading
from contextlib import ExitStack, suppress
from functools import cache
from typing import Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests import servers as our
from tests.checks.every import EVERY
from tests.checks.leftovers import Left, left_by
from tests.checks.more_servers import with_more
from tests.doubles import eventually, failing, hanging, passing
from tests.soak.figure import (
    MEBIBYTE,
    Figure,
    library_threads,
    open_files,
    resident_bytes,
    scaled,
    series_of,
    silent_checker,
    virtual_checker,
)
from tests.virtual import VirtualLoop

CHECKS: Final = 100
WARM_UP: Final = 20_000
"""Runs before anything is measured: pools, caches and the allocator's arenas have grown to their size by then."""

KINDS: Final = (failing, passing, failing, passing, failing, hanging, failing, passing, failing, passing)
"""Of ten checks five fail and one times out."""


def gate_R16(scale: float) -> Figure:
    """No leak: of memory, threads, tasks, descriptors or series."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        grown, left, runs = runner.run(_many_runs(scaled(1_000_000, scale, 20_000)))
        ghosts, replaced = runner.run(_replaced(scaled(10_000, scale, 500)))
    with asyncio.Runner() as runner:
        sync_grown, sync_left, sync_runs = runner.run(_sync_runs(scaled(50_000, scale, 2000)))
    grown, left, runs = max(grown, sync_grown), left + sync_left, runs + sync_runs
    return Figure(
        "R16",
        "RSS +<= 2 MiB, threads/tasks/descriptors +0, 0 ghost series",
        f"{runs} runs: RSS +{grown / MEBIBYTE:.2f} MiB, +{left} threads/tasks/descriptors; "
        f"{replaced} replaced: {ghosts} ghosts",
        grown <= 2 * MEBIBYTE and left == 0 and ghosts == 0,
    )


def _things() -> int:
    return threading.active_count() + len(asyncio.all_tasks()) + open_files()


async def _many_runs(runs: int) -> tuple[int, int, int]:
    reader = InMemoryMetricReader()
    checker = virtual_checker(ttl=0.5, timeout=0.2, meter_provider=MeterProvider([reader]))
    for number in range(CHECKS):
        checker.add(f"check-{number}", KINDS[number % len(KINDS)]())

    async def rounds(count: int) -> None:
        for number in range(count):
            await asyncio.sleep(1.0)
            await checker.run()
            if number % 100 == 0:
                reader.get_metrics_data()

    await rounds(WARM_UP // CHECKS)
    resident, things = resident_bytes(), _things()
    await rounds(runs // CHECKS)
    await asyncio.sleep(1.0)
    return resident_bytes() - resident, _things() - things, runs


async def _sync_runs(runs: int) -> tuple[int, int, int]:
    checker = silent_checker(ttl=1e-9)

    def refused() -> None:
        raise ConnectionError("refused")

    for number in range(CHECKS):
        checker.add(f"check-{number}", refused if number % 2 else lambda: None)
    for _ in range(20):
        await checker.run()
    resident, things = resident_bytes(), _things()
    for _ in range(runs // CHECKS):
        await checker.run()
    grown = resident_bytes() - resident
    # How many threads were wanted at once is the scheduler's affair; none outlives the Checker.
    left = max(_things() - things - 64, 0)
    async with checker:
        pass
    with suppress(AssertionError):
        await eventually(lambda: not library_threads(), 2.0)
    return grown, left + len(library_threads()), runs


async def _replaced(names: int) -> tuple[int, int]:
    reader = InMemoryMetricReader()
    checker = virtual_checker(ttl=0.5, meter_provider=MeterProvider([reader]))
    checker.add("stays", passing())
    for first in range(0, names, CHECKS):
        batch = [f"check-{number}" for number in range(first, first + CHECKS)]
        for name in batch:
            checker.add(name, passing())
        await asyncio.sleep(1.0)
        await checker.run()
        reader.get_metrics_data()
        for name in batch:
            checker.remove(name)
    await asyncio.sleep(1.0)
    # A histogram and a counter never forget: that is the SDK's, and said in the design.
    kept = {"otel_health.check.duration", "otel_health.check.failures"}
    shown = [dict(attributes) for name, attributes in series_of(reader) if name not in kept]
    return sum(attributes.get("component", "stays") != "stays" for attributes in shown), names


SERVERLESS: Final = (
    "cgroup",
    "dbapi.answers, sqlite",
    "disk",
    "dns",
    "environment",
    "file",
    "loop",
    "process",
    "sqlite.",
)
"""What the short form runs: few runs of the others are `tests.checks.test_every`'s, which has their servers anyway."""


def gate_R24(scale: float) -> Figure:
    """Every check, each way of asking its server: a thousand runs leave nothing here, and nothing there."""
    runs = scaled(1000, scale, 100)
    rows = {name: row for name, row in EVERY.items() if scale >= 0.1 or name.startswith(SERVERLESS)}
    with ExitStack() as stack:
        servers = with_more(stack, cache(lambda name: stack.enter_context(getattr(our, f"own_{name}")())))
        found = {name: asyncio.run(left_by(row, servers, runs)) for name, row in rows.items()}
    return Figure(
        "R24",
        "descriptors, threads, tasks, connections +<= 2; blocks of memory +<= 600 and one for two runs; none wrong",
        f"{len(found)} checks of {runs} runs each: {_told(found)}",
        all(left.nothing for left in found.values()),
    )


def _told(found: dict[str, Left]) -> str:
    return "; ".join(f"{name} {left}" for name, left in found.items() if not left.nothing) or "nothing left"
