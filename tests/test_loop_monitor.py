"""The event loop, watched: its lag, who blocks it, and livez when it is stuck."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, ErrorType, HealthReport, Status, Transition, any_of
from otel_health.lifecycle import LoopMonitor
from tests.doubles import eventually, failing, passing
from tests.soak.figure import series_of

Lines = list[logging.LogRecord]


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.lines.append(record)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """What the Checker's logger is told."""
    caplog.set_level(logging.INFO, "otel_health")
    kept, logger = Kept(), logging.getLogger("otel_health")
    logger.addHandler(kept)
    yield kept.lines
    logger.removeHandler(kept)


def blocks(lines: Lines) -> Lines:
    """The warnings of a blocked loop."""
    return [line for line in lines if "has been blocked" in line.getMessage()]


def block(seconds: float) -> None:
    """Hold the loop."""
    time.sleep(seconds)


def seen_while_blocked(checker: Checker, seconds: float) -> list[tuple[float, HealthReport]]:
    """Block the loop, and return what another thread read of livez meanwhile, each with the seconds since."""
    seen: list[tuple[float, HealthReport]] = []
    begun, stop = time.monotonic(), threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            seen.append((time.monotonic() - begun, checker.report("livez")))

    reader = threading.Thread(target=look)
    reader.start()
    block(seconds)
    stop.set()
    reader.join()
    return seen


async def test_a_stuck_loop_fails_livez_in_time() -> None:
    """Nothing before the threshold, a failure soon after it, and a pass when the loop is back."""
    checker = Checker()
    async with checker, LoopMonitor(checker, stuck_after=0.6, warn_after=0.3):
        assert checker.report("livez").statuses == {"event-loop": Status.PASS}

        seen = seen_while_blocked(checker, 1.6)

        assert {report.status for at, report in seen if at < 0.55} == {Status.PASS}
        assert {report.status for at, report in seen if at > 1.5} == {Status.FAIL}
        assert seen[-1][1].components["event-loop"].error_type is ErrorType.STALE
        await eventually(lambda: checker.report("livez").status is Status.PASS)


async def test_until_then_the_silence_of_other_checks_is_no_reason() -> None:
    """Nothing renews them while the loop is stuck: livez leaves that to the monitor, whatever their intervals are."""
    checker = Checker()
    checker.add("memory", passing(), local=True, probes={"livez"}, interval=0.05, timeout=0.1)
    async with checker, LoopMonitor(checker, stuck_after=30.0, warn_after=20.0):
        await eventually(lambda: checker.report("livez").statuses["memory"] is Status.PASS)

        _, report = seen_while_blocked(checker, 0.5)[-1]

        assert report.components["memory"].error_type is ErrorType.STALE
        assert report.status is Status.PASS
        assert checker.report("healthz").status is Status.FAIL


async def test_a_fault_of_another_check_still_fails_livez() -> None:
    """Only staleness is left to the monitor."""
    checker = Checker()
    checker.add("memory", failing(), local=True, probes={"livez"})
    async with checker, LoopMonitor(checker):
        await eventually(lambda: checker.report("livez").status is Status.FAIL)


async def test_without_the_monitor_staleness_fails_livez() -> None:
    """Where nobody speaks for the loop, each check does; and so it is again when the monitor is closed."""
    checker = Checker()
    checker.add("memory", passing(), local=True, probes={"livez"}, interval=0.05, timeout=0.1)
    async with checker:
        async with LoopMonitor(checker):
            await eventually(lambda: checker.report("livez").statuses["memory"] is Status.PASS)

        _, report = seen_while_blocked(checker, 0.5)[-1]

        assert report.status is Status.FAIL


async def test_a_block_is_told_once_with_its_stack(lines: Lines) -> None:
    """One warning while it lasts, which shows the code that blocks; one line when it is over, with its length."""
    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.2):
        block(1.0)
        await eventually(lambda: any("goes on" in line.getMessage() for line in lines))

    (warning,) = blocks(lines)
    assert warning.levelno == logging.WARNING
    assert warning.getMessage().endswith("in block")
    assert "by this code" in warning.getMessage()
    assert 0.2 <= vars(warning)["otel_health.blocked_seconds"] < 1.0
    assert "in block" in vars(warning)["code.stacktrace"]
    assert "otel_health.component" not in vars(warning)
    (end,) = [line for line in lines if "goes on" in line.getMessage()]
    assert vars(end)["otel_health.blocked_seconds"] > 0.8


async def test_each_block_is_told_of(lines: Lines) -> None:
    """Once for each, not once for all."""
    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.2):
        for number in (1, 2):
            block(0.8)
            await eventually(lambda number=number: sum("goes on" in line.getMessage() for line in lines) == number)  # type: ignore[misc]

    assert len(blocks(lines)) == 2


async def test_a_block_shorter_than_warn_after_is_not_told_of(lines: Lines) -> None:
    """Whatever the phase of the watcher."""
    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=2.0):
        for seconds in (0.3, 0.7):
            block(seconds)
            await asyncio.sleep(0.05)

    assert blocks(lines) == []


async def blocking() -> None:
    """A check that blocks in its first slice."""
    block(0.8)


async def blocking_later() -> None:
    """A check that blocks in a later slice."""
    await asyncio.sleep(0.01)
    block(0.8)


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (blocking, "orders"),
        (blocking_later, "orders"),
        (any_of(primary=failing(), replica=blocking_later), "orders.replica"),
    ],
)
async def test_a_check_that_blocks_is_named(lines: Lines, check: Callable[[], Awaitable[None]], name: str) -> None:
    """In its first slice, in a later one, and as a child of a composite."""
    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.2):
        checker.add("orders", check)
        await eventually(lambda: bool(blocks(lines)))

    warning = blocks(lines)[0]
    assert vars(warning)["otel_health.component"] == name
    assert f"by the check '{name}'" in warning.getMessage()


async def test_a_listener_that_blocks_is_not_laid_to_the_check(lines: Lines) -> None:
    """It is called where the check's verdict is given, but it is not the check's code."""

    def listen(transition: Transition) -> None:
        if transition.component == "orders":
            block(0.8)

    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.2):
        checker.subscribe(listen)
        checker.add("orders", passing())
        await eventually(lambda: bool(blocks(lines)))

    assert "otel_health.component" not in vars(blocks(lines)[0])
    assert "in listen" in blocks(lines)[0].getMessage()


async def test_the_stack_holds_no_values(lines: Lines) -> None:
    """Files, lines and functions: neither locals nor code, which may hold secrets."""
    local = "hunter2"

    def hold() -> None:
        time.sleep(0.8 if local != "hunter3" else 0)

    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.2):
        hold()
        await eventually(lambda: bool(blocks(lines)))

    assert blocks(lines)[0].getMessage().endswith("in hold")
    assert "hunter" not in str(vars(blocks(lines)[0]))


async def test_the_lag_is_measured() -> None:
    """In a histogram of seconds, by the Checker's own meter provider; one for two Checkers of it."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    one, two = Checker(meter_provider=provider), Checker(meter_provider=provider)
    two.add("other", passing())
    async with one, LoopMonitor(one, warn_after=0.4):
        block(0.5)
        await asyncio.sleep(0.15)
        (point,) = (point for (name, _), point in series_of(reader).items() if name == "otel_health.event_loop.lag")

    assert point.max > 0.3
    assert point.count > 1
    assert next(iter(point.explicit_bounds)) == 0.001
    provider.shutdown()


async def test_a_meter_provider_at_fault_costs_nothing(lines: Lines) -> None:
    """The lag is lost, and everything else goes on."""
    checker = Checker(meter_provider=MeterProvider())

    class Broken:
        def record(self, *_: object) -> None:
            raise SystemExit

    checker.engine._instruments._lag = Broken()  # type: ignore[assignment]  # noqa: SLF001 - a provider that is broken.
    async with checker, LoopMonitor(checker, warn_after=0.2):
        await eventually(lambda: any("metrics are lost" in line.getMessage() for line in lines))
        block(0.8)
        await eventually(lambda: bool(blocks(lines)))


async def test_closing_leaves_nothing(threads: Callable[[], int]) -> None:
    """No thread, no component, no timer; and it may be opened again."""
    checker = Checker()
    monitor = LoopMonitor(checker)
    assert threads() == 0
    for _ in range(2):
        async with checker:
            async with monitor:
                assert "event-loop" in checker
            assert "event-loop" not in checker
    await eventually(lambda: threads() == 0)


async def test_what_makes_no_sense_is_refused() -> None:
    """With the way out."""
    checker = Checker()
    with pytest.raises(ValueError, match="stuck_after=0 must be a positive"):
        LoopMonitor(checker, stuck_after=0)
    with pytest.raises(ValueError, match="warn_after=5 would come no earlier than stuck_after=5"):
        LoopMonitor(checker, stuck_after=5, warn_after=5)
    monitor = LoopMonitor(checker)
    with pytest.raises(RuntimeError, match="async with checker, LoopMonitor"):
        await monitor.__aenter__()
    async with checker, monitor:
        with pytest.raises(RuntimeError, match="already open"):
            await monitor.__aenter__()
        with pytest.raises(RuntimeError, match="one LoopMonitor is enough"):
            await LoopMonitor(checker).__aenter__()
    assert checker.names == ()


async def test_two_on_one_meter_provider_are_refused() -> None:
    """Their metrics could not be told apart; the error says what to do, and nothing is left behind."""
    provider = MeterProvider([InMemoryMetricReader()])
    first, second = Checker(meter_provider=provider), Checker(meter_provider=provider)
    async with first, second, LoopMonitor(first):
        with pytest.raises(RuntimeError, match="one for each event loop is enough"):
            await LoopMonitor(second).__aenter__()
        assert second.names == ()


class Looks(threading.Event):
    """Lets the watcher look so often, and then ends it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - an event's shape.
        """Wait for nothing."""
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize(("looks", "accused"), [(1, 0), (6, 1)])
async def test_what_the_watcher_slept_through_does_not_count(lines: Lines, looks: int, accused: int) -> None:
    """A minute between two looks is no minute of a blocked loop; many looks at the same beat are."""
    times = iter(range(0, 6000, 60))
    checker = Checker(clock=lambda: float(next(times)))

    LoopMonitor(checker)._watch(Looks(looks), threading.get_ident())  # noqa: SLF001 - a thread's whole work.

    await asyncio.sleep(0.1)
    assert len(blocks(lines)) == accused


STOPPED = """
import asyncio, logging, sys
from otel_health import Checker
from otel_health.lifecycle import LoopMonitor

async def main():
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    checker = Checker()
    async with checker, LoopMonitor(checker, warn_after=0.3):
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await asyncio.sleep(0.5)

asyncio.run(main())
"""


def test_a_process_that_stood_still_accuses_nobody() -> None:
    """SIGSTOP and SIGCONT: the watcher was not running either."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    for _ in range(3):
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.1)

    _, said = process.communicate("\n", timeout=20)

    assert process.returncode == 0
    assert said == ""
