"""Clients that come and go leave nothing behind."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import gc
import threading
from contextlib import suppress
from typing import Any, Final

import redis
import redis.asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health_instrumentation.clients import Clients
from otel_health_instrumentation.clients.living import LIVES
from tests.doubles import eventually
from tests.soak.figure import (
    MEBIBYTE,
    Figure,
    library_threads,
    open_files,
    resident_bytes,
    scaled,
    series_of,
    silent_checker,
)

AT_ONCE: Final = 100
WARM_UP: Final = 10
"""Batches before anything is measured."""


def gate_R23(scale: float) -> Figure:
    """Ten thousand clients are made, become checks that are run, and are dropped."""
    with asyncio.Runner() as runner:
        made, grown, left, ghosts = runner.run(_come_and_go(scaled(10_000, scale, 500)))
    left += len(library_threads())
    return Figure(
        "R23",
        "RSS +<= 2 MiB; no check, no series, no thread or descriptor is left of a client",
        f"{made} clients: RSS +{grown / MEBIBYTE:.2f} MiB, +{left} checks/threads/descriptors, {ghosts} ghosts",
        grown <= 2 * MEBIBYTE and left == 0 and ghosts == 0,
    )


async def _come_and_go(number: int) -> tuple[int, int, int, int]:
    now = 0.0
    reader = InMemoryMetricReader()
    checker = silent_checker(ttl=1e-9, meter_provider=MeterProvider([reader]))
    clients = Clients(checker, technologies=["redis"], passive_for=1.0, clock=lambda: now)

    async def batch() -> None:
        """Half of them stay for long enough to be checks, of servers that are not there."""
        nonlocal now
        living: list[Any] = [_client(database) for database in range(AT_ONCE // 2)]
        now += LIVES
        clients.look()
        assert len(checker.names) == AT_ONCE // 2
        living += [_client(database) for database in range(AT_ONCE // 2)]
        await checker.run("healthz")
        reader.get_metrics_data()
        living.clear()
        gc.collect()
        clients.look()

    clients.instrument()
    try:
        for _ in range(WARM_UP):
            await batch()
        resident, things = resident_bytes(), threading.active_count() + open_files()
        for _ in range(number // AT_ONCE):
            await batch()
        grown, left = resident_bytes() - resident, threading.active_count() + open_files() - things
        # How many threads were wanted at once is the scheduler's affair; none outlives the Checker.
        left = max(left - 64, 0) + len(checker.names)
    finally:
        clients.uninstrument()
    async with checker:
        pass
    with suppress(AssertionError):
        await eventually(lambda: not library_threads(), 2.0)
    # A histogram and a counter never forget: that is the SDK's, and said in the design.
    kept = {"otel_health.check.duration", "otel_health.check.failures"}
    ghosts = sum("component" in dict(attributes) for name, attributes in series_of(reader) if name not in kept)
    return number, grown, left, ghosts


def _client(database: int) -> object:
    library: Any = redis.asyncio if database % 2 else redis
    return library.Redis(host="127.0.0.1", port=1, db=database)
