"""What is mended without anybody makes nothing worse: restarts are slow, actions are few, and a shutdown is none."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, TypeVar

from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Check, Checker, Status
from otel_health.lifecycle import Drain
from otel_health.recovery import Supervisor
from tests.doubles import eventually, failing, passing, swallowing
from tests.soak.figure import Figure, scaled, series_of, silent_checker, virtual_checker
from tests.virtual import VirtualLoop, now

TEN_MINUTES: Final = 600.0

EXPECTED: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds between the first starts of a task that dies at once; 60 from then on."""

KINDS: Final = ("recovery", "recovery async", "task", "task thread")
"""Where a service's own code runs that is to mend something."""


def gate_R12(scale: float) -> Figure:
    """Supervised tasks and recovery actions: few, one at a time, only where they are called for, in virtual time."""
    trials = scaled(100, scale, 3)
    starts = [_virtually(_dying) for _ in range(trials)]
    off = sum(not _as_promised(begun) for begun in starts)
    counts = [len(begun) for begun in starts]
    nine, eleven = _virtually(partial(_living, 9)), _virtually(partial(_living, 11))
    taken = [_virtually(partial(_mended, seed)) for seed in range(trials)]
    crowded = max(most for most, _, _ in taken)
    most_in_ten = max(in_ten for _, in_ten, _ in taken)
    silent = sum(not shown for _, _, shown in taken)
    uncalled = sum(_virtually(_unknown) for _ in range(trials))
    after = sum(_virtually(partial(_left, seed)) for seed in range(trials))
    return Figure(
        "R12",
        "dying at once: 1, 2, 4 .. 60 s +-20 %, 13-19 starts in 10 min; forgotten after 10 min, not 9; <= 1 action in "
        "flight, <= 3 in 10 min, then gave_up in the metrics; unknown or stale: 0 actions; shutdown: 0 restarts",
        f"{trials} trials: {off} off, {min(counts)}-{max(counts)} starts; after 9 min {nine:.1f} s, after 11 min "
        f"{eleven:.1f} s; {crowded} in flight, {most_in_ten} in 10 min, {silent} not shown; {uncalled} uncalled for; "
        f"{after} restarts",
        off == 0
        and min(counts) >= 13
        and max(counts) <= 19
        and nine > 12.0
        and eleven < 1.3
        and crowded == 1
        and most_in_ten == 3
        and silent == uncalled == after == 0,
    )


def gate_E1(scale: float) -> Figure:
    """A task that crashes at once, for ever: next to no work, and next to no lines."""
    seconds = max(60.0 * scale, 8.0)
    share, lines = asyncio.run(_crash_loop(seconds))
    allowed = 8 + seconds / 30
    return Figure(
        "E1",
        f"a crash loop costs < 1 % of a core, and <= {allowed:.0f} lines, in its first {seconds:.0f} s",
        f"{share:.2%} of a core, {lines} lines",
        share < 0.01 and lines <= allowed,
    )


Value = TypeVar("Value")


def _virtually(trial: Callable[[], Coroutine[None, None, Value]]) -> Value:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(trial())


# Supervised tasks.


async def _dying() -> list[float]:
    """When a task that dies at once is started, in ten minutes."""
    begun: list[float] = []

    async def die() -> None:
        begun.append(now())
        raise ConnectionError("refused")

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", die)
        await asyncio.sleep(TEN_MINUTES)
    return begun


def _as_promised(begun: list[float]) -> bool:
    waits = [after - before for before, after in itertools.pairwise(begun)]
    wanted = itertools.chain(EXPECTED, itertools.repeat(60.0))
    return all(0.8 * want <= wait <= 1.2 * want + 0.01 for wait, want in zip(waits, wanted, strict=False))


async def _living(minutes: float) -> float:
    """How long a task that dies after so many minutes waits for its sixth start."""
    begun: list[float] = []

    async def live() -> None:
        begun.append(now())
        await asyncio.sleep(60 * minutes)

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", live)
        await asyncio.sleep(60 * minutes * 7)
    return begun[5] - begun[4] - 60 * minutes


async def _left(seed: int) -> int:
    """How many tasks are started anew, or actions taken, after a drain has begun or the supervisor was left."""
    random_ = random.Random(seed)
    leaving = False
    after = 0

    async def die() -> None:
        nonlocal after
        after += leaving
        try:
            await asyncio.sleep(random_.uniform(0.0, 20.0))
        finally:
            if random_.random() < 0.5:
                raise ConnectionError("refused")

    async def act() -> None:
        nonlocal after
        after += leaving

    async with virtual_checker(interval=1.0) as checker, Drain(checker) as drain, Supervisor(checker) as supervisor:
        for number in range(5):
            supervisor.start(f"consumer-{number}", die)
        checker.add("redis", failing(), recover=act, initial_delay=random_.uniform(1.0, 60.0))
        await asyncio.sleep(random_.uniform(0.0, 120.0))
        leaving = True
        if random_.random() < 0.5:
            drain.begin()
            await asyncio.sleep(120.0)
    await asyncio.sleep(120.0)
    return after


# Recovery actions.


async def _mended(seed: int) -> tuple[int, int, bool]:
    """Of an action that is slow, hangs or helps for a while: most at once, most in ten minutes, whether it shows."""
    random_ = random.Random(seed)
    reader = InMemoryMetricReader()
    begun: list[float] = []
    running = most = 0
    hang = swallowing()

    async def act() -> None:
        nonlocal running, most
        begun.append(now())
        running += 1
        most = max(most, running)
        try:
            if random_.random() < 0.1:
                await hang()
            await asyncio.sleep(random_.uniform(0.0, 60.0))
        finally:
            running -= 1
        if random_.random() < 0.5:
            raise ConnectionError("refused")

    well = False

    async def check() -> bool:
        return well

    async with virtual_checker(interval=1.0, meter_provider=MeterProvider([reader])) as checker:
        checker.add("redis", check, recover=act, recover_within=40.0)
        for _ in range(20):
            well = False
            await asyncio.sleep(random_.uniform(1.0, 200.0))
            well = True
            await asyncio.sleep(random_.uniform(2.0, 30.0))
        well = False
        await asyncio.sleep(2 * TEN_MINUTES)
        key = ("otel_health.recovery.state", (("component", "redis"), ("state", "gave_up")))
        shown = series_of(reader)[key].value == 1
    in_ten = max(sum(first <= each < first + TEN_MINUTES for each in begun) for first in begun)
    return most, in_ten, shown


class Silent:
    """A sibling that is waited for, and never brings anything, so that what is shared goes stale."""

    leads = True

    def wait(self, check: Check, finished: float) -> float:  # noqa: ARG002 - the protocol's.
        """Wait for ever."""
        return 1e6

    def spares(self, check: Check) -> bool:  # noqa: ARG002 - as above.
        """Let the run count."""
        return False

    def ran(self, check: Check) -> None:
        """Tell nobody."""


async def _unknown() -> int:
    """How many actions are taken for a component of which nothing is known: pending at first, and stale in the end."""
    taken = 0

    async def act() -> None:
        nonlocal taken
        taken += 1

    checker = virtual_checker(interval=10.0)
    checker.add("stale", passing(), recover=act, shared=True)
    await checker.run()
    checker.add("pending", failing(), recover=act, initial_delay=1e6)
    async with checker:
        checker.engine.share(Silent())
        await asyncio.sleep(TEN_MINUTES)
        states = {name: state.decided for name, state in checker.report().components.items()}
    return taken + sum(states.values())


# What it costs.


class Lines(logging.Handler):
    """Counts the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the handler's.
        """Count one."""
        self.count += 1


async def _crash_loop(seconds: float) -> tuple[float, int]:
    """The share of a core that a crash loop takes, and how many lines it leaves."""
    lines = Lines()
    logger = logging.Logger("crashes", logging.INFO)
    logger.addHandler(lines)

    async def die() -> None:
        raise ConnectionError("refused")

    async with Checker(logger=logger) as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", die, max_restarts=None)
        begun, used = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - used) / (time.monotonic() - begun)
    return share, lines.count


# What it raises.


async def harmless(make: Callable[[], BaseException], kind: str) -> bool:
    """Whether what an action or a task raises harms nobody: its neighbours pass, and probes answer."""
    checker = silent_checker(interval=0.05)

    def raising() -> None:
        raise make()

    async def raising_async() -> None:
        raise make()

    checker.add("before", passing())
    supervisor = Supervisor(checker)
    if kind.startswith("task"):
        supervisor.start("it", raising if kind == "task thread" else raising_async, restart_delay=0.001)
    else:
        checker.add("it", failing(), recover=raising if kind == "recovery" else raising_async)
    checker.add("after", passing())
    async with checker, supervisor:
        await eventually(lambda: _has_raised(checker), 10.0)
        await checker.run()
        statuses = checker.report().statuses
        right = statuses["before"] is statuses["after"] is Status.PASS
        transport = ASGITransport(app=checker.asgi(details="full"))
        async with AsyncClient(transport=transport, base_url="http://soak") as client:
            response = await client.get("/readyz")
            right &= response.status_code in (200, 503)
            right &= str(json.loads(response.content)["checks"]["before"][0]["status"]) == "pass"
    return right


def _has_raised(checker: Checker) -> bool:
    state = checker.report().components["it"]
    if state.recovery is not None:
        return state.recovery.outcome is not None
    return state.result is not None and " times" in str(state.result.message)
