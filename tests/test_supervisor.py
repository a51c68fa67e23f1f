"""Supervised tasks: started anew when they crash, less and less often, and given up in the end."""

import asyncio
import inspect
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker, ComponentState, ErrorType, Status
from otel_health.lifecycle import Drain
from otel_health.recovery import Supervisor
from otel_health.report import TaskState
from tests.doubles import eventually, swallowing
from tests.soak.figure import series_of
from tests.virtual import now, virtual_checker


def living(
    lives: list[float], seconds: float = 0.0, error: BaseException | None = None
) -> Callable[[], Awaitable[None]]:
    """A task that notes when it was started, and crashes after so many seconds."""

    async def live() -> None:
        lives.append(now())
        await asyncio.sleep(seconds)
        raise error or ConnectionError("refused")

    return live


def state(checker: Checker, name: str = "consumer") -> ComponentState:
    """How the component stands."""
    return checker.report().components[name]


def message(checker: Checker) -> str:
    """What the component says."""
    result = state(checker).result
    return "" if result is None or result.message is None else result.message


# How it is started anew.


@pytest.mark.virtual_time
async def test_a_task_that_dies_at_once_is_started_less_and_less_often() -> None:
    """After 1, 2, 4 ... 60 seconds, each plus or minus 20 %."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living(lives))
        await asyncio.sleep(600)

    delays = [after - before for before, after in pairwise(lives)]
    for delay, expected in zip(delays, [1, 2, 4, 8, 16, 32, *[60] * 20], strict=False):
        assert 0.8 * expected <= delay <= 1.2 * expected + 0.01
    assert 13 <= len(lives) <= 19
    assert len(set(delays)) == len(delays)


@pytest.mark.parametrize(("minutes", "forgotten"), [(9, False), (11, True)])
@pytest.mark.virtual_time
async def test_crashes_are_forgotten_after_ten_healthy_minutes(minutes: int, *, forgotten: bool) -> None:
    """Not after nine."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living(lives, 60.0 * minutes), max_restart_delay=1e6)
        await asyncio.sleep(60 * minutes * 6)

    last = lives[5] - lives[4] - 60 * minutes
    assert (last < 2) is forgotten
    assert (last > 12) is not forgotten


@pytest.mark.virtual_time
async def test_past_its_budget_it_is_given_up() -> None:
    """It fails, says why, and nothing is started any more."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", living(lives), max_restarts=3)
        await asyncio.sleep(3600)

        assert len(lives) == 4
        assert consumer.task_state is TaskState.GAVE_UP
        assert state(checker).status is Status.FAIL
        assert message(checker) == "gave up: crashed 4 times, last: ConnectionError: refused"


@pytest.mark.virtual_time
async def test_without_a_budget_it_is_never_given_up() -> None:
    """For whoever would rather have it tried for ever."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living(lives), max_restarts=None)
        await asyncio.sleep(24 * 3600)

    assert len(lives) > 1300


@pytest.mark.parametrize("may_finish", [True, False])
@pytest.mark.virtual_time
async def test_a_return_is_a_crash_unless_it_may_finish(*, may_finish: bool) -> None:
    """A consumer that returns consumes no more, whether it meant to or not."""

    async def returning() -> None:
        await asyncio.sleep(5)

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        task = supervisor.start("consumer", returning, may_finish=may_finish)
        await asyncio.sleep(5.5)

        assert task.task_state is (TaskState.FINISHED if may_finish else TaskState.RESTARTING)
        assert state(checker).status is (Status.PASS if may_finish else Status.WARN)


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopAsyncIteration(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.virtual_time
async def test_whatever_it_raises_is_a_crash_and_no_more(error: BaseException) -> None:
    """The loop goes on, and so does everybody else."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living(lives, 2.0, error))
        await asyncio.sleep(2.5)

        assert state(checker).status is Status.WARN
        assert type(error).__name__ in message(checker)
        await asyncio.sleep(60)
    assert len(lives) > 3


# What its component says.


@pytest.mark.virtual_time
async def test_it_is_pending_until_it_has_run_for_a_moment() -> None:
    """Never up on faith: neither before it is started, nor at its start."""
    checker = virtual_checker()
    supervisor = Supervisor(checker)
    supervisor.start("consumer", asyncio.Event().wait)
    assert state(checker).error_type is ErrorType.PENDING
    async with checker, supervisor:
        assert state(checker).error_type is ErrorType.PENDING
        await asyncio.sleep(0.9)
        assert state(checker).error_type is ErrorType.PENDING
        await asyncio.sleep(0.2)
        assert state(checker).status is Status.PASS
        await asyncio.sleep(86400)
        assert state(checker).status is Status.PASS


@pytest.mark.virtual_time
async def test_a_crash_warns_and_a_crash_loop_fails() -> None:
    """One that is well again soon wakes nobody; one that is not running well for ten seconds is down."""
    lives: list[float] = []
    crashing = True

    async def consume() -> None:
        lives.append(now())
        if len(lives) == 1:
            await asyncio.sleep(100)
        if crashing:
            raise ConnectionError("refused")
        await asyncio.Event().wait()

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", consume)
        seen: list[tuple[float, Status]] = []
        checker.subscribe(lambda transition: seen.append((now() - 1100, transition.after)))
        await asyncio.sleep(100.5)
        assert state(checker).status is Status.WARN
        assert re.fullmatch(
            r"crashed once, starts again in (0\.[89]|1\.[012]) s; last: ConnectionError: refused", message(checker)
        )
        await asyncio.sleep(40)
        assert state(checker).status is Status.FAIL
        crashing = False
        await asyncio.sleep(100)
        assert state(checker).status is Status.PASS

    assert [status for _, status in seen] == [Status.PASS, Status.WARN, Status.FAIL, Status.PASS]
    assert seen[1][0] == pytest.approx(0, abs=0.1)
    assert seen[2][0] == pytest.approx(10, abs=0.1)


@pytest.mark.virtual_time
async def test_one_that_never_ran_well_fails_from_the_first_crash() -> None:
    """It was never up, and a warn would say that it is."""
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living([]))
        await asyncio.sleep(0.1)
        assert state(checker).status is Status.FAIL


@pytest.mark.virtual_time
async def test_nobody_needs_to_open_the_checker() -> None:
    """What is known is in memory, and is right on demand, too."""
    checker = virtual_checker()
    async with Supervisor(checker) as supervisor:
        supervisor.start("consumer", living([], 50.0))
        await asyncio.sleep(40)
        assert state(checker).status is Status.PASS
        await asyncio.sleep(10.1)
        assert state(checker).status is Status.WARN


@pytest.mark.virtual_time
async def test_a_supervision_that_dies_is_noticed() -> None:
    """Nobody would start the task again: the component says so at once, though the task still runs."""
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", asyncio.Event().wait)
        await asyncio.sleep(5)
        assert state(checker).status is Status.PASS

        assert consumer.supervision is not None
        consumer.supervision.cancel()
        await asyncio.sleep(0.01)

        assert state(checker).status is Status.FAIL
        assert message(checker) == "gave up: its supervision ended by CancelledError: "


def test_a_supervisor_whose_loop_is_gone_is_noticed() -> None:
    """Its verdict expires by itself, for whoever reads it in whatever thread."""
    seconds = [1000.0]
    checker = Checker(clock=lambda: seconds[0])
    loop = asyncio.new_event_loop()

    supervisor = Supervisor(checker)
    supervisor.start("consumer", asyncio.Event().wait, restart_delay=0.001)
    loop.run_until_complete(supervisor.__aenter__())
    loop.run_until_complete(asyncio.sleep(0.05))
    seconds[0] += 1
    assert state(checker).status is Status.PASS
    seconds[0] += 29.5
    assert state(checker).status is Status.FAIL
    assert message(checker) == "its supervisor has not been heard of for 30.5 s" or state(checker).result is None
    loop.run_until_complete(supervisor.__aexit__(None, None, None))
    loop.close()


# Its end.


@pytest.mark.virtual_time
async def test_leaving_ends_the_tasks_and_is_no_crash() -> None:
    """Each is cancelled once, cleans up, and its component goes with it."""
    ended: list[str] = []

    async def consume() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("consumer")

    async with virtual_checker() as checker:
        async with Supervisor(checker) as supervisor:
            consumer = supervisor.start("consumer", consume)
            await asyncio.sleep(5)
        assert ended == ["consumer"]
        assert (consumer.crashes, consumer.restarts) == (0, 0)
        assert "consumer" not in checker
        async with supervisor:
            await asyncio.sleep(5)
            assert state(checker).status is Status.PASS


@pytest.mark.virtual_time
async def test_a_task_has_time_to_clean_up() -> None:
    """It is cancelled once: what it awaits at its end is not cut short, within the time that it has."""
    flushed: list[float] = []

    async def consume() -> None:
        try:
            await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))
        finally:
            await asyncio.sleep(2)
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(1))
            flushed.append(now())

    async with virtual_checker() as checker:
        async with Supervisor(checker) as supervisor:
            supervisor.start("consumer", consume)
            await asyncio.sleep(5)
        assert flushed == [1008.0]


@pytest.mark.virtual_time
async def test_one_that_outlives_its_supervision_is_not_started_a_second_time() -> None:
    """A restart brings both back, when the first life has ended."""
    lives: list[float] = []

    async def stubborn() -> None:
        lives.append(now())
        ends_at = now() + 20
        while now() < ends_at:
            try:
                await asyncio.sleep(ends_at - now())
            except asyncio.CancelledError:
                continue

    async with virtual_checker() as checker, Supervisor(checker, stop_within=1.0) as supervisor:
        consumer = supervisor.start("consumer", stubborn)
        await asyncio.sleep(5)
        assert consumer.supervision is not None
        consumer.supervision.cancel()
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await supervisor.restart("consumer")
        assert len(lives) == 1
        await asyncio.sleep(14)
        assert lives == [1000.0, 1020.0]


@pytest.mark.virtual_time
async def test_what_crashes_in_a_drain_is_not_started_anew() -> None:
    """The service is leaving: what ends now ends for good, and quietly."""
    lives: list[float] = []
    checker = virtual_checker()
    async with checker, Drain(checker) as drain, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", living(lives, 5.0))
        waiting = supervisor.start("waiting", living([], 2.0))
        await asyncio.sleep(2.1)
        drain.begin()
        await asyncio.sleep(60)

        assert len(lives) == 1
        assert (consumer.crashes, waiting.restarts) == (0, 0)
        assert (consumer.task_state, waiting.task_state) == (TaskState.FINISHED, TaskState.FINISHED)
        with pytest.raises(RuntimeError, match="about to be left"):
            await supervisor.restart("consumer")


async def test_a_task_that_denies_its_cancellation_is_left_in_time() -> None:
    """Its coroutine is closed, as far as Python lets anyone."""
    cancelled: list[object] = []
    checker = Checker()
    async with Supervisor(checker, stop_within=0.05) as supervisor:
        supervisor.start("consumer", swallowing(cancelled))
        await asyncio.sleep(0.01)

    assert cancelled
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "consumer"]


@pytest.mark.virtual_time
async def test_one_task_is_stopped_and_its_name_is_free_again() -> None:
    """The others go on."""
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("other", asyncio.Event().wait)
        supervisor.start("consumer", asyncio.Event().wait)
        await asyncio.sleep(2)
        await supervisor.stop("consumer")
        assert checker.names == ("other",)
        supervisor.start("consumer", asyncio.Event().wait)
        await asyncio.sleep(2)
        assert checker.report().status is Status.PASS
        with pytest.raises(KeyError, match=r"no task is named 'producer'; supervised: other, consumer"):
            await supervisor.stop("producer")


# Starting it anew by hand.


@pytest.mark.virtual_time
async def test_a_restart_ends_the_task_and_starts_it_at_once() -> None:
    """That is no crash, and never are there two of them."""
    alive = most = 0

    async def consume() -> None:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        try:
            await asyncio.Event().wait()
        finally:
            alive -= 1

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", consume)
        await asyncio.sleep(5)
        begun = now()
        await supervisor.restart("consumer")
        assert now() == begun
        await asyncio.sleep(0)
        assert (consumer.restarts, consumer.crashes, alive, most) == (1, 0, 1, 1)
        assert (state(checker).status, message(checker)) == (Status.WARN, "runs again for 0.0 s")
        await asyncio.sleep(1.1)
        assert state(checker).status is Status.PASS


@pytest.mark.parametrize("given_up", [True, False])
@pytest.mark.virtual_time
async def test_a_restart_wakes_one_that_waits_or_was_given_up(*, given_up: bool) -> None:
    """Its crashes are forgotten."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", living(lives), max_restarts=5 if given_up else None)
        await asyncio.sleep(200)
        assert (consumer.task_state is TaskState.GAVE_UP) is given_up
        begun = now()
        await supervisor.restart("consumer")
        await asyncio.sleep(0)
        assert lives[-1] == begun
        await asyncio.sleep(2)
        assert lives[-1] - lives[-2] < 1.3


@pytest.mark.virtual_time
async def test_one_that_does_not_end_is_started_when_it_does() -> None:
    """The restart says so, and a second one beside it is never started."""
    lives: list[float] = []
    let_go = False

    async def stubborn() -> None:
        lives.append(now())
        while len(lives) > 1 or not let_go:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", stubborn)
        await asyncio.sleep(5)
        with pytest.raises(TimeoutError, match="has not ended within 5 s"):
            await supervisor.restart("consumer")
        assert len(lives) == 1
        let_go = True
        await asyncio.sleep(1.1)
        assert len(lives) == 2


# Threads.


async def test_a_plain_function_is_supervised_in_a_thread() -> None:
    """It crashes and is started anew as any other; leaving tells it to end."""
    lives: list[str] = []
    checker = Checker()
    supervisor = Supervisor(checker)

    def consume() -> None:
        lives.append(threading.current_thread().name)
        if len(lives) < 3:
            raise ConnectionError("refused")
        supervisor.stopping.wait()

    consumer = supervisor.start("consumer", consume, restart_delay=0.01)
    async with supervisor:
        await eventually(lambda: len(lives) == 3)
        await eventually(lambda: state(checker).status is Status.PASS)
        assert consumer.crashes == 2
        with pytest.raises(RuntimeError, match="nothing can end"):
            await supervisor.restart("consumer")

    assert lives == ["otel_health-consumer"] * 3
    await eventually(lambda: "otel_health-consumer" not in {thread.name for thread in threading.enumerate()})


async def test_an_awaitable_from_a_plain_function_is_awaited_on_the_loop() -> None:
    """So a lambda that binds arguments does what one means."""
    loops: list[object] = []

    async def consume(queue: str) -> None:
        loops.append((asyncio.get_running_loop(), queue))
        await asyncio.Event().wait()

    checker = Checker()
    async with Supervisor(checker) as supervisor:
        supervisor.start("consumer", lambda: consume("orders"))
        await eventually(lambda: bool(loops))
        await supervisor.restart("consumer")
        await eventually(lambda: len(loops) == 2)
    assert loops == [(asyncio.get_running_loop(), "orders")] * 2


async def test_a_thread_that_does_not_end_is_told_of_and_waited_for_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can end it, and nobody hangs on it."""
    let_go, entered = threading.Event(), threading.Event()

    def consume() -> None:
        entered.set()
        let_go.wait()

    async with Checker() as checker, Supervisor(checker, stop_within=0.05) as supervisor:
        supervisor.start("consumer", consume)
        await eventually(entered.is_set)
    let_go.set()
    assert "the thread of task consumer has not ended within 0.05 s" in caplog.text


async def test_a_thread_that_outlives_its_stop_never_lives_twice() -> None:
    """Another task of its name begins when it has ended, and is pending until then."""
    let_go, lives = threading.Event(), list[str]()

    def consume() -> None:
        lives.append("begun")
        let_go.wait()
        lives.append("ended")

    async with Checker() as checker, Supervisor(checker, stop_within=0.05) as supervisor:
        supervisor.start("consumer", consume)
        await eventually(lambda: lives == ["begun"])
        await supervisor.stop("consumer")
        supervisor.start("consumer", consume, restart_delay=0.05)
        await asyncio.sleep(0.2)
        assert lives == ["begun"]
        assert state(checker).error_type is ErrorType.PENDING
        let_go.set()
        await eventually(lambda: lives[:3] == ["begun", "ended", "begun"])


async def test_a_thread_that_returns_a_coroutine_after_the_stop_has_it_closed() -> None:
    """Nobody would supervise it."""
    let_go, entered = threading.Event(), threading.Event()
    made: list[Coroutine[object, object, None]] = []

    async def consume() -> None:
        await asyncio.Event().wait()

    def connect() -> Awaitable[None]:
        entered.set()
        let_go.wait()
        made.append(consume())
        return made[0]

    async with Checker() as checker, Supervisor(checker, stop_within=0.05) as supervisor:
        supervisor.start("consumer", connect)
        await eventually(entered.is_set)
        await supervisor.stop("consumer")
        let_go.set()
        await eventually(lambda: "otel_health-consumer" not in {thread.name for thread in threading.enumerate()})
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


# What is told.


async def test_each_crash_is_logged_without_its_secrets_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """With its exception, and by its class; the state of the task is a series of its own."""
    reader = InMemoryMetricReader()
    checker = Checker(meter_provider=MeterProvider([reader]))
    async with checker, Supervisor(checker) as supervisor:
        supervisor.start(
            "consumer",
            living([], error=ConnectionError("no route to amqp://guest:hunter2@mq")),
            restart_delay=0.001,
            max_restarts=2,
        )
        await eventually(lambda: "gave up" in message(checker))
        series = {key: point.value for key, point in series_of(reader).items() if key[0][:16] == "otel_health.task"}
    lines = [record for record in caplog.records if record.getMessage().startswith("consumer crashed")]

    component = ("component", "consumer")
    assert series == {
        ("otel_health.task.crashes", (component, ("error_type", "ConnectionError"))): 3,
        ("otel_health.task.restarts", (component,)): 2,
        ("otel_health.task.state", (component, ("state", "running"))): 0,
        ("otel_health.task.state", (component, ("state", "restarting"))): 0,
        ("otel_health.task.state", (component, ("state", "gave_up"))): 1,
        ("otel_health.task.state", (component, ("state", "finished"))): 0,
    }
    assert len(lines) == 3
    assert lines[0].getMessage() == (
        "consumer crashed (ConnectionError: no route to amqp://***@mq), starts again in 0.0 s"
    )
    assert lines[2].getMessage().endswith("it gives up after 2 restarts")
    assert vars(lines[2])["otel_health.crashes"] == 3
    assert "hunter2" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_tracebacks_are_told_where_they_are_allowed(caplog: pytest.LogCaptureFixture) -> None:
    """By the Checker's own option."""
    async with Checker(tracebacks=True) as checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living([]))
        await eventually(lambda: "refused" in message(checker))
    assert "in live\n    raise error or ConnectionError" in caplog.text


@pytest.mark.virtual_time
async def test_a_crash_loop_fills_no_log() -> None:
    """The first five have a line each, then one a minute, which says how many it stands for."""
    told: list[str] = []
    checker = virtual_checker()
    checker.note = lambda _, text, *arguments, **__: told.append(text % arguments)  # type: ignore[method-assign]
    lives: list[float] = []
    async with checker, Supervisor(checker) as supervisor:
        supervisor.start("consumer", living(lives), max_restart_delay=1.0, max_restarts=None)
        await asyncio.sleep(600)

    assert len(lives) > 500
    assert 14 <= len(told) <= 16
    assert "crashes before this one were not told of" in told[-1]


def test_a_forked_child_supervises_nothing() -> None:
    """What runs is the parent's; the child's own Checker knows of no task until it is entered there."""
    checker = Checker()
    supervisor = Supervisor(checker)
    supervisor.start("consumer", asyncio.Event().wait)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(supervisor.__aenter__())
    loop.run_until_complete(asyncio.sleep(0.01))
    pid = os.fork()
    if pid == 0:
        os._exit(1 if "consumer" in checker else 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert "consumer" in checker
    loop.run_until_complete(supervisor.__aexit__(None, None, None))
    loop.close()


# What is refused.


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"restart_delay": 0}, "restart_delay=0"),
        ({"max_restart_delay": 0.5}, "max_restart_delay=0.5 is below"),
        ({"healthy_after": float("inf")}, "healthy_after=inf"),
        ({"max_restarts": 0}, "max_restarts=0"),
        ({"fail_after": -1}, "fail_after=-1"),
        ({"may_finish": 1}, "may_finish=1"),
        ({"name": "a b"}, "'a b'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], culprit: str) -> None:
    """By name, where it is written; and nothing is registered."""
    checker = Checker()
    name = options.pop("name", "consumer")
    with pytest.raises(ValueError, match=culprit):
        Supervisor(checker).start(name, asyncio.Event().wait, **options)
    assert checker.names == ()


async def test_what_was_called_already_is_refused() -> None:
    """One passes the function."""
    with pytest.raises(TypeError, match="NoneType cannot be called; pass the function"):
        Supervisor(Checker()).start("consumer", None)  # type: ignore[arg-type]
    checker = Checker()
    async with Supervisor(checker) as supervisor:
        with pytest.raises(RuntimeError, match="entered"):
            await supervisor.__aenter__()
    supervisor.start("consumer", asyncio.Event().wait)
    with pytest.raises(RuntimeError, match="not entered"):
        await supervisor.restart("consumer")
