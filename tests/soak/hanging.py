"""Checks that never return: threads and memory stay bounded, verdicts come in time, nothing holds up the exit."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from httpx2 import ASGITransport, AsyncClient

from otel_health import CheckFunc, ErrorType, Status, Transition
from tests.doubles import eventually
from tests.soak.figure import MEBIBYTE, Figure, library_threads, percentile, resident_bytes, scaled, silent_checker

HUNG: Final = 1000
MIXED_HUNG, MIXED_HEALTHY = 400, 100
WORKING: Final = 64
THREADS: Final = 512
"""In all, with those stuck in hung checks; without them WORKING."""

BUSY: Final = 1000
BUSY_SECONDS: Final = 0.02
"""How many sync checks work at once, and for how long: too short to be taken for stuck."""

TOLERANCE: Final = 0.1
"""Seconds by which a verdict may come after the deadline."""


class Held:
    """Sync checks that hold their threads until they are let go, and count how many of each run at once."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.most_at_once = 0
        self._lock = threading.Lock()

    def check(self) -> Callable[[], None]:
        """Return one more check."""
        running = 0

        def hold() -> None:
            nonlocal running
            with self._lock:
                running += 1
                self.most_at_once = max(self.most_at_once, running)
            self.let_go.wait()
            with self._lock:
                running -= 1

        return hold


def gate_R1(scale: float) -> Figure:
    """Hung sync checks: threads, memory, right results, saturation and recovery."""
    return asyncio.run(_hung_sync(scale))


async def _hung_sync(scale: float) -> Figure:
    interval, timeout = (5.0, 3.0) if scale >= 0.2 else (1.5, 1.2)
    wrong = await _mixed(interval, timeout, rounds=scaled(10, scale, 2))
    working = await _working()
    resident = resident_bytes()
    checker, held = silent_checker(interval=interval, timeout=timeout), Held()
    for number in range(HUNG):
        checker.add(f"hung-{number}", held.check())
    threads, seen, before = 0, set(), library_threads()
    async with checker:
        until = time.monotonic() + max(600 * scale, 3 * interval + timeout)
        while time.monotonic() < until:
            await asyncio.sleep(0.1)
            threads = max(threads, len(library_threads() - before))
            states = checker.report().components.values()
            seen = {state.error_type for state in states}
        grown = resident_bytes() - resident
        held.let_go.set()
        released = time.monotonic()
        try:
            await eventually(lambda: checker.report().status is Status.PASS, 3 * interval + 5)
        except AssertionError:
            released = float("-inf")
        recovery = time.monotonic() - released
    in_time = recovery <= interval + 1.0
    types = sorted(str(kind) for kind in seen)
    return Figure(
        "R1",
        f"<= {WORKING} working and {THREADS} threads in all, RSS +<= 30 MiB, <= 1 live run, 0 wrong, "
        f"hung or saturated, right in {interval + 1:g} s",
        f"{working} working, {threads} in all, RSS +{grown / MEBIBYTE:.1f} MiB, {held.most_at_once} live, "
        f"{wrong} wrong, {'/'.join(types)}, right after {recovery:.2f} s",
        0 < working <= WORKING
        and threads <= THREADS
        and grown <= 30 * MEBIBYTE
        and held.most_at_once <= 1
        and wrong == 0
        and seen == {ErrorType.HUNG, ErrorType.SATURATED}
        and in_time,
    )


async def _working() -> int:
    """Return how many of very many sync checks work at once, where all come to their end."""
    checker, lock = silent_checker(), threading.Lock()
    working = most = 0

    def work() -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(BUSY_SECONDS)
        with lock:
            working -= 1

    for number in range(BUSY):
        checker.add(f"busy-{number}", work)
    async with checker:
        await eventually(lambda: checker.report().status is Status.PASS)
    return most


async def _mixed(interval: float, timeout: float, rounds: int) -> int:
    """Return how many results were wrong where hung and healthy sync checks share the threads."""
    checker, held, runs = silent_checker(interval=interval, timeout=timeout), Held(), [0] * MIXED_HEALTHY
    wrong = 0

    def counting(number: int) -> Callable[[], None]:
        def count() -> None:
            runs[number] += 1

        return count

    def changed(transition: Transition) -> None:
        nonlocal wrong
        wrong += transition.after.up is transition.component.startswith("hung")

    for number in range(MIXED_HUNG):
        checker.add(f"hung-{number}", held.check())
        if number < MIXED_HEALTHY:
            checker.add(f"healthy-{number}", counting(number))
    checker.subscribe(changed)
    async with checker:
        await asyncio.sleep(rounds * interval * 1.1 + timeout)
        statuses = checker.report().statuses
        held.let_go.set()
    wrong += sum(status.up is name.startswith("hung") for name, status in statuses.items())
    return wrong + sum(count < rounds for count in runs)


def gate_R2(scale: float) -> Figure:
    """Hard timeout: a verdict by the deadline, whatever the check does, and an answer within the budget."""
    return asyncio.run(_deadlines(scale))


async def _deadlines(scale: float) -> Figure:
    late: list[float] = []
    most_alive = 0
    for _ in range(scaled(66, scale, 2)):
        overrun, begun = await _overruns([*[_swallow] * 51, *[_hold] * 50], timeout=0.1)
        late += overrun
        most_alive = max(most_alive, begun)
    for _ in range(scaled(3334, scale, 10)):
        overrun, _ = await _overruns([_blocking(random.uniform(0.06, 0.1))], timeout=0.05, asks=1)
        late += overrun
    answers = [await _endpoint() for _ in range(scaled(50, scale, 2))]
    in_time = sum(each <= TOLERANCE for each in late)
    return Figure(
        "R2",
        "verdict <= timeout + 100 ms always, <= 1 zombie, endpoint <= 0.8 s (+ 50 ms)",
        f"{in_time} of {len(late)}, p99 +{percentile(late, 0.99) * 1000:.0f} ms, worst +{max(late) * 1000:.0f} ms; "
        f"{most_alive} zombie; endpoint {max(answers):.3f} s",
        in_time == len(late) and most_alive == 1 and max(answers) <= 0.85,
    )


Double = Callable[[Callable[[], None], threading.Event], CheckFunc]
"""Makes a check that says when it starts, and may be let go."""


def _swallow(on_start: Callable[[], None], let_go: threading.Event) -> CheckFunc:
    async def check() -> None:
        on_start()
        while not let_go.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    return check


def _hold(on_start: Callable[[], None], let_go: threading.Event) -> CheckFunc:
    def check() -> None:
        on_start()
        let_go.wait()

    return check


def _blocking(seconds: float) -> Double:
    def block(on_start: Callable[[], None], _: threading.Event) -> CheckFunc:
        async def check() -> None:
            on_start()
            time.sleep(seconds)  # noqa: ASYNC251 - it is what the check is to be blamed for.

        return check

    return block


async def _overruns(doubles: list[Double], timeout: float, asks: int = 2) -> tuple[list[float], int]:
    """Return by how many seconds the verdict of each check missed its timeout, and how often one was begun at most."""
    checker, let_go = silent_checker(timeout=timeout, ttl=1e-9), threading.Event()
    starts: dict[str, list[float]] = {}
    verdicts: dict[str, float] = {}

    def starting(name: str) -> Callable[[], None]:
        def start() -> None:
            starts.setdefault(name, []).append(time.monotonic())

        return start

    def decided(transition: Transition) -> None:
        verdicts.setdefault(transition.component, time.monotonic())

    for number, double in enumerate(doubles):
        checker.add(f"check-{number}", double(starting(f"check-{number}"), let_go))
    checker.subscribe(decided)
    for _ in range(asks):
        # A verdict that never comes is worse than a late one, and must not hold up the gate.
        await asyncio.wait((asyncio.ensure_future(checker.run()),), timeout=20 * timeout)
    never = float("inf")
    most_begun = max(map(len, starts.values()))
    await _release(let_go)
    return [verdicts.get(name, never) - begun[0] - timeout for name, begun in starts.items()], most_begun


async def _release(let_go: threading.Event) -> None:
    """End what a trial has left behind."""
    let_go.set()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)


async def _endpoint() -> float:
    """Return the seconds in which a probe is answered whose checks all outlast its budget."""
    checker, let_go = silent_checker(timeout=5.0), threading.Event()
    checker.add("holds", _hold(lambda: None, let_go))
    checker.add("swallows", _swallow(lambda: None, let_go))
    checker.add("blocks", _blocking(0.1)(lambda: None, let_go))
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://soak") as client:
        begun = time.monotonic()
        response = await client.get("/readyz")
        took = time.monotonic() - begun
    await _release(let_go)
    return took if response.status_code == 503 else float("inf")


PROGRAM: Final = """
import asyncio, logging, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from otel_health import Checker
from tests.doubles import swallowing

class Hanging(SpanExporter):
    def export(self, spans):
        threading.Event().wait()

async def main():
    tracers = TracerProvider(shutdown_on_exit=False)
    if sys.argv[1] == "exporter":
        tracers.add_span_processor(SimpleSpanProcessor(Hanging()))
    checker = Checker(timeout=0.5, logger=logging.Logger("silent", logging.CRITICAL), tracer_provider=tracers)
    for number in range(80):
        checker.add(f"sync-{number}", threading.Event().wait)
    for number in range(20):
        checker.add(f"async-{number}", swallowing())
    async with checker:
        abandoned = 0
        for _ in range(50):
            await asyncio.sleep(0.1)
            abandoned = sum(component.abandoned_runs for component, _ in checker.engine.states())
            if abandoned == 100:
                break
        print(abandoned, time.time(), flush=True)

asyncio.run(main())
"""


DRAINED: Final = """
import asyncio, logging, os, signal, socket, threading, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.registration import ConsulRegistry, Registration
from tests.doubles import failing

hung = set()
silent = socket.create_server(("127.0.0.1", 0))  # The kernel takes its clients, and nobody ever answers.

def hang(who):
    hung.add(who)
    threading.Event().wait()

class Hanging(SpanExporter):
    def export(self, spans):
        hang("exporter")

async def registry():
    hung.add("async registry")
    await asyncio.Event().wait()

async def main():
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    checker = Checker(interval=0.05, tracer_provider=provider, logger=logging.Logger("silent", logging.CRITICAL))
    checker.add("refused", failing(), critical=False)
    consul = ConsulRegistry(f"http://127.0.0.1:{silent.getsockname()[1]}")
    registration = Registration(checker, consul, service="orders", address="127.0.0.1", port=8000)
    hooks = [lambda: hang("registry"), registry, registration.withdraw]
    drain = Drain(checker, delay=0.3, cap=10.0, hooks=hooks, hook_timeout=0.5)
    async with checker, drain, registration:
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        await drain.wait()
        print(len(hung), time.time(), flush=True)

asyncio.run(main())
"""


def gate_R20(scale: float) -> Figure:
    """Exit: a hundred hung checks hold up nothing, nor does a hung exporter, nor do hung withdrawals."""
    took: list[float] = []
    untidy = 0
    programs = [(PROGRAM, "checks", "100"), (PROGRAM, "exporter", "100"), (DRAINED, "registries", "3")]
    for program, argument, most in programs * scaled(34, scale, 1):
        try:
            command = [sys.executable, "-c", program, argument]
            done = subprocess.run(command, capture_output=True, timeout=30, text=True)
            hung, ended_at = done.stdout.split()
            took.append(time.time() - float(ended_at))
            untidy += done.returncode != 0 or bool(done.stderr) or hung != most
        except (subprocess.TimeoutExpired, ValueError):
            untidy += 1
            took.append(float("inf"))
    return Figure(
        "R20",
        "exit <= 2 s after the program's end, stderr empty, with 100 checks hung, an exporter, or registries",
        f"{len(took)} exits, slowest {max(took):.2f} s, {untidy} untidy",
        max(took) <= 2.0 and untidy == 0,
    )
