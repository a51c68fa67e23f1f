"""What it costs to have the library: at import, in memory, in the background, and on the loop during a round."""

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import Any

from otel_health import Checker
from otel_health.prometheus import PrometheusExporter
from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.rounds import at_once

OURS = "import otel_health"
FLOOR = "import asyncio, opentelemetry.metrics, opentelemetry.trace, starlette.routing, starlette.responses"


def figures(*, quick: bool) -> dict[str, Any]:
    """All of them."""
    return {
        "import_time": import_time(rounds=2 if quick else 15),
        "memory": memory(),
        "stall": stall(),
        "background": background(interval=2.0 if quick else 10.0),
    }


def import_time(rounds: int) -> dict[str, float]:
    """The import beside its floor: what any library on asyncio, OpenTelemetry's API and Starlette has to import."""
    found = in_turns({"ours": lambda: _import_ms(OURS), "floor": lambda: _import_ms(FLOOR)}, rounds)
    return {
        "ratio": ratio(found, "ours", "floor"),
        "ours_ms": median(found, "ours"),
        "floor_ms": median(found, "floor"),
    }


def _import_ms(statement: str) -> float:
    """As it is from the second start on, when the bytecode has been written."""
    program = f"import time; begun = time.process_time(); {statement}; print(time.process_time() - begun)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return float(run.stdout) * 1000


def memory(number: int = 2000) -> dict[str, float]:
    """KiB for each registered component that has been run, as Python allocates it."""

    async def measure() -> float:
        checker = Checker()
        await checker.run()
        gc.collect()
        tracemalloc.start()
        for each in range(number):
            checker.add(f"check-{each}", at_once)
        await checker.run()
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return taken / number / 1024

    return {"kib_per_component": asyncio.run(measure())}


def background(interval: float, number: int = 10_000) -> dict[str, float]:
    """The share of one core that an open Checker takes for `number` checks each 10 s, metrics included.

    Over one interval, or thereabouts, for the jitter: the runs are counted.
    """
    runs = 0

    async def check() -> None:
        nonlocal runs
        runs += 1

    async def measure() -> float:
        checker = Checker(interval=interval, meter_provider=PrometheusExporter().meter_provider)
        for each in range(number):
            checker.add(f"check-{each}", check)
        async with checker:
            # The first round and its second looks are over, and the jitter has spread what follows.
            await asyncio.sleep(interval * 1.5)
            before, worked = runs, time.process_time()
            await asyncio.sleep(interval)
            return (time.process_time() - worked) / (runs - before)

    each = asyncio.run(measure())
    return {"core_percent": each * number / 10.0 * 100, "us_per_run": each * 1e6}


def stall(number: int = 5000) -> dict[str, float]:
    """The longest turn that the loop takes while a round of `number` checks is made, in milliseconds of its thread."""

    async def measure() -> float:
        checker = Checker(ttl=1e-9, meter_provider=PrometheusExporter().meter_provider)
        for each in range(number):
            checker.add(f"check-{each}", at_once)
        await checker.run()
        longest = []
        for _ in range(7):
            gc.collect()
            worst, last = 0.0, time.thread_time()
            renewal = checker.renewal("readyz")
            assert renewal is not None, "everything is older than the ttl, so a round begins"
            ended = False
            while not ended:
                ended = renewal.done()
                await asyncio.sleep(0)
                now = time.thread_time()
                worst, last = max(worst, now - last), now
            longest.append(worst)
        return statistics.median(longest) * 1000

    return {"stall_ms": asyncio.run(measure())}
