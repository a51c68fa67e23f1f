"""What it costs to have the library: at import, in memory, in the background, and while a check hangs."""

import asyncio
import gc
import statistics
import subprocess
import sys
import time
import tracemalloc

from otel_health import Checker
from tests.benchmarks.rounds import at_once

FLOOR = "import asyncio, opentelemetry.metrics, opentelemetry.trace, starlette.routing, starlette.responses"


def import_time(rounds: int = 9) -> dict[str, float]:
    """The import beside its floor: what any library on asyncio, OpenTelemetry's API and Starlette has to import."""
    pairs = [(_import_ms("import otel_health"), _import_ms(FLOOR)) for _ in range(rounds)]
    return {
        "ratio": statistics.median(ours / floor for ours, floor in pairs),
        "ours_ms": statistics.median(ours for ours, _ in pairs),
        "floor_ms": statistics.median(floor for _, floor in pairs),
    }


def _import_ms(statement: str) -> float:
    program = f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
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


def background(number: int = 10_000, interval: float = 10.0, seconds: float = 20.0) -> dict[str, float]:
    """The share of one core that an open Checker takes for `number` checks each `interval` seconds."""

    async def measure() -> float:
        checker = Checker(interval=interval)
        for each in range(number):
            checker.add(f"check-{each}", at_once)
        async with checker:
            # The first round and its second looks are over, and the jitter has spread what follows.
            await asyncio.sleep(interval * 1.2)
            begun, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(seconds)
            return (time.process_time() - worked) / (time.perf_counter() - begun)

    return {"core_percent": asyncio.run(measure()) * 100}


def coalescing(probes: int = 200) -> dict[str, float]:
    """How many concurrent probes one run of a check serves."""

    async def measure() -> float:
        runs = 0

        async def check() -> None:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.05)

        checker = Checker()
        checker.add("postgres", check)
        await asyncio.gather(*(checker.run() for _ in range(probes)))
        return probes / runs

    return {"probes_per_run": asyncio.run(measure())}


def stall(number: int = 5000) -> dict[str, float]:
    """The longest that the loop waits for its turn while a round of `number` checks is made, in milliseconds."""

    async def measure() -> float:
        checker = Checker(ttl=1e-9)
        for each in range(number):
            checker.add(f"check-{each}", at_once)
        await checker.run()
        longest = []
        for _ in range(7):
            worst, last = 0.0, time.perf_counter()
            renewal = checker.renewal("readyz")
            while renewal is not None and not renewal.done():
                worst = max(worst, time.perf_counter() - last)
                last = time.perf_counter()
                await asyncio.sleep(0)
            longest.append(worst)
        return statistics.median(longest) * 1000

    return {"stall_ms": asyncio.run(measure())}


if __name__ == "__main__":
    for measured in (import_time(), memory(), coalescing(), stall(), background()):
        print({name: round(value, 2) for name, value in measured.items()})
