"""Verdicts expire by themselves, however the scheduler dies, and the wall clock decides nothing."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, Transition
from tests.servers import free_port
from tests.soak.figure import Figure, scaled, series_of, silent_checker, virtual_checker
from tests.virtual import VirtualLoop

INTERVAL: Final = 0.1
TIMEOUT: Final = 0.1
MAX_AGE: Final = 2 * INTERVAL + TIMEOUT
"""Seconds for which a result is believed."""

LATE: Final = 1.0
"""Seconds after MAX_AGE in which readyz has to fail."""

SLACK: Final = 0.05
"""What the taking of a figure itself may cost."""


class Beating:
    """A healthy check that remembers when it last ran."""

    def __init__(self) -> None:
        self.last = float("-inf")

    async def __call__(self) -> None:
        self.last = time.monotonic()


class Subject:
    """An open Checker with one check, and all that may be seen of it."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.beating = Beating()
        self.checker = silent_checker(interval=INTERVAL, timeout=TIMEOUT, meter_provider=MeterProvider([self.reader]))
        self.checker.add("beating", self.beating)
        # One for all requests: what it keeps of a healthy answer must expire, too.
        self._app = self.checker.asgi()

    async def get(self) -> int:
        """The status that `/readyz` answers with."""
        async with AsyncClient(transport=ASGITransport(app=self._app), base_url="http://soak") as client:
            return (await client.get("/readyz")).status_code

    def believed_for(self) -> float:
        """For how many seconds since its check last ran the verdict is given."""
        return self.checker.report().expires_at - self.beating.last

    def up(self) -> int | None:
        """The last value of the component's `up` series, and None where there is none."""
        point = series_of(self.reader).get(("otel_health.check.up", (("component", "beating"),)))
        return None if point is None else int(point.value)


class FaultyLoop(asyncio.SelectorEventLoop):
    """Once broken, every timer of the library raises instead of being called."""

    broken = False

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        """Call at a time, or raise then."""

        def call() -> None:
            if self.broken and getattr(callback, "__module__", "").startswith("otel_health"):
                raise RuntimeError("a fault was injected")
            callback(*args)

        return super().call_at(when, call, **options)


def gate_R5(scale: float) -> Figure:
    """Freshness: whatever ends the scheduler, no verdict outlives its time."""
    ways: dict[str, Callable[[], float]] = {
        "cancel": lambda: _in_faulty_loop(_cancelled),
        "exception": lambda: _in_faulty_loop(_broken),
        "thread": _loop_stopped,
        "stop": _stopped,
        "fork": _forked,
    }
    worst: dict[str, float] = {}
    held = 0
    trials = scaled(100, scale, 1)
    for way, trial in ways.items():
        for _ in range(trials):
            late = trial()
            held += late <= LATE
            worst[way] = max(late, worst.get(way, float("-inf")))
    text = ", ".join(f"{way} {late:+.2f} s" for way, late in worst.items())
    return Figure(
        "R5",
        "never healthy past max_age, readyz 503 and up 0 within max_age + 1 s, ended five ways",
        f"{held} of {len(ways) * trials}; worst against max_age: {text}",
        held == len(ways) * trials,
    )


def _in_faulty_loop(trial: Callable[[FaultyLoop], Awaitable[float]]) -> float:
    loop = FaultyLoop()
    loop.set_exception_handler(lambda *_: None)
    try:
        return loop.run_until_complete(_awaited(trial(loop)))
    finally:
        loop.close()


async def _awaited(awaitable: Awaitable[float]) -> float:
    return await awaitable


async def _cancelled(_: FaultyLoop) -> float:
    """Cancel every task again and again: runs may be dropped, but no old verdict may pass for a new one."""
    subject = Subject()
    worst = float("-inf")
    async with subject.checker:
        await asyncio.sleep(1.5 * INTERVAL)
        until = time.monotonic() + MAX_AGE + 2 * INTERVAL
        while time.monotonic() < until:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)
            if subject.checker.report().status.up:
                worst = max(worst, time.monotonic() - subject.beating.last - MAX_AGE)
        healthy = await subject.get() == 200
    return worst if healthy and worst <= SLACK else float("inf")


async def _broken(loop: FaultyLoop) -> float:
    """Have every timer of the library raise."""
    subject = Subject()
    async with subject.checker:
        await asyncio.sleep(1.5 * INTERVAL)
        loop.broken = True
        late = await _until_unready(subject)
        loop.broken = False
    return late


async def _until_unready(subject: Subject) -> float:
    """Return how many seconds after its time a verdict whose scheduler is dead was still given."""
    if await subject.get() != 200 or subject.believed_for() > MAX_AGE + SLACK:
        return float("inf")
    while await subject.get() == 200:
        if time.monotonic() > subject.beating.last + MAX_AGE + LATE:
            return float("inf")
        await asyncio.sleep(0.005)
    late = time.monotonic() - subject.beating.last - MAX_AGE
    return late if subject.up() == 0 and not subject.checker.report().status.up else float("inf")


def _loop_stopped() -> float:
    """Stop the Checker's loop in its thread; what is asked from another loop expires all the same."""
    subject, loop, opened = Subject(), asyncio.new_event_loop(), threading.Event()

    async def open_and_wait() -> None:
        await subject.checker.__aenter__()
        await asyncio.sleep(1.5 * INTERVAL)
        opened.set()
        await asyncio.sleep(3600)

    def work() -> None:
        task = loop.create_task(open_and_wait())
        loop.run_forever()
        task.cancel()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    opened.wait(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    try:
        return asyncio.run(_until_unready(subject))
    finally:
        loop.run_until_complete(subject.checker.__aexit__(None, None, None))
        loop.close()


def _forked() -> float:
    """Fork: in the child no scheduler lives, and nothing is published."""
    subject = Subject()

    async def in_child() -> float:
        async with subject.checker:
            await asyncio.sleep(1.5 * INTERVAL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                signal.alarm(20)  # A lock that somebody else held at the fork is never released: die of it.
                time.sleep(MAX_AGE + SLACK)  # noqa: ASYNC251 - the child's loop is dead.
                os._exit(int(subject.checker.report().status.up or bool(subject.up())))
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            return SLACK if status == 0 else float("inf")

    return asyncio.run(in_child())


SERVED: Final = f"""
import logging, sys, uvicorn
from otel_health import Checker
checker = Checker(interval={INTERVAL}, timeout={TIMEOUT}, logger=logging.Logger("silent", logging.CRITICAL))
@checker.check("beating")
async def beating() -> None: ...
uvicorn.run(checker.asgi(details="full"), port=int(sys.argv[1]), log_level="critical")
"""


def _stopped() -> float:
    """Freeze the process past the age of its verdict: its first answer afterwards must not be the old one."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVED, str(port)])
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        _until_ready(url)
        process.send_signal(signal.SIGSTOP)
        time.sleep(MAX_AGE + 2 * SLACK)
        resumed = time.time()
        process.send_signal(signal.SIGCONT)
        status, body = _fetch(url)
        if status == 503:
            return SLACK
        checked_at = str(body["checks"]["beating"][0]["time"]).replace("Z", "+00:00")
        return resumed - _seconds(checked_at) - MAX_AGE if _seconds(checked_at) >= resumed - 0.002 else float("inf")
    finally:
        process.kill()
        process.wait()


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(URLError):
            if _fetch(url)[0] == 200:
                return
        time.sleep(0.02)
    raise TimeoutError("the service did not become ready")


def _fetch(url: str) -> tuple[int, Any]:
    try:
        with urlopen(url, timeout=5) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


JUMPS: Final = (3600.0, -3600.0, 86400.0, -86400.0)


# Not through a clock of the test's own: here it is the Checker's default that must not be the wall clock.
UNSTEADY: Final = """
import sys, time
ahead, real, real_ns = 0.0, time.time, time.time_ns
time.time = lambda: real() + ahead
time.time_ns = lambda: real_ns() + int(ahead * 1e9)

import asyncio, logging
from otel_health import Checker

async def main():
    global ahead
    checker, transitions, negative = Checker(interval=0.05, logger=logging.Logger("silent", 60)), [], 0
    checker.add("passes", lambda: time.sleep(0.001))
    checker.add("waits", lambda: asyncio.sleep(0.01))
    async with checker:
        await asyncio.sleep(0.3)
        checker.subscribe(transitions.append)
        for number in range(int(sys.argv[1])):
            ahead += (3600.0, -3600.0, 86400.0, -86400.0)[number % 4]
            await asyncio.sleep(0.1)
            states = checker.report().components.values()
            negative += sum(not state.status.up or not state.result.duration > 0 for state in states)
    print(len(transitions), negative)

asyncio.run(main())
"""


def gate_R15(scale: float) -> Figure:
    """Clock: jumps of the wall clock change no verdict and make no duration negative."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        jumps, runs, transitions, negative = runner.run(_jumps(scaled(250, scale, 5)))
    more = scaled(400, scale, 8)
    done = subprocess.run([sys.executable, "-c", UNSTEADY, str(more)], capture_output=True, text=True, check=True)
    real = [int(number) for number in done.stdout.split()]
    return Figure(
        "R15",
        "wall clock +-1 h and +-1 day: 0 transitions, 0 negative durations",
        f"{jumps + more} jumps: {transitions + real[0]} transitions, {negative + real[1]} negative durations",
        transitions + negative + sum(real) == 0 and runs >= jumps * 2,
    )


async def _jumps(rounds: int) -> tuple[int, int, int, int]:
    reader = InMemoryMetricReader()
    checker = virtual_checker(interval=10.0, meter_provider=MeterProvider([reader]))
    transitions: list[Transition] = []
    negative = 0

    async def slow() -> None:
        await asyncio.sleep(1.0)

    async def failing() -> None:
        await asyncio.sleep(0.5)
        raise ConnectionError

    checker.add("passes", slow)
    checker.add("fails", failing, critical=False)
    async with checker:
        await asyncio.sleep(5.0)
        checker.subscribe(transitions.append)
        with _wall_clock() as jump:
            for _ in range(rounds):
                for seconds in JUMPS:
                    jump(seconds)
                    for _ in range(4):
                        await asyncio.sleep(5.5)
                        negative += _negative(checker)
    points = [point for (name, _), point in series_of(reader).items() if name == "otel_health.check.duration"]
    negative += sum(point.min < 0 for point in points)
    runs = sum(point.count for point in points)
    return rounds * len(JUMPS), runs, len(transitions), negative


def _negative(checker: Checker) -> int:
    results = [state.result for state in checker.report().components.values()]
    return sum(result is None or (result.duration or 0.0) < 0 for result in results)


@contextmanager
def _wall_clock() -> Iterator[Callable[[float], None]]:
    """Replace the wall clock by one that jumps when it is told to."""
    real, real_ns, ahead = time.time, time.time_ns, 0.0

    def jump(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    vars(time).update(time=lambda: real() + ahead, time_ns=lambda: real_ns() + int(ahead * 1e9))
    try:
        yield jump
    finally:
        vars(time).update(time=real, time_ns=real_ns)
