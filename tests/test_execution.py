"""One run and its deadline: whatever a check does, it yields an ending in time."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from otel_health import Checker, CheckFunc, ErrorType, Status, all_of, any_of
from tests.doubles import Blocking, Switch, eventually, failing, hanging, passing, swallowing
from tests.virtual import VirtualLoop, now, virtual_checker


class Odd(BaseException):
    """An exception outside everybody's hierarchy."""


class Unprintable(Exception):
    """An exception that cannot be put into words."""

    def __str__(self) -> str:
        raise SystemExit(5)


RAISED: list[BaseException] = [
    ValueError("no"),
    Odd(),
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(3),
    StopAsyncIteration(),
    asyncio.CancelledError(),
    TimeoutError(),
    MemoryError(),
    RecursionError(),
    ExceptionGroup("both", [ValueError("a"), TypeError("b")]),
    Unprintable(),
    ValueError("x" * 10_000_000),
    ValueError("\ud800\x00\r\nforged"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["async", "sync", "awaited", "after a pause"])
async def test_any_exception_is_a_result(error: BaseException, kind: str) -> None:
    """Nothing that a check raises leaves the runner, and its neighbours notice nothing."""

    async def asynchronous() -> None:
        raise error

    async def paused() -> None:
        await asyncio.sleep(0)
        raise error

    def synchronous() -> None:
        raise error

    async def later() -> None:
        raise error

    kinds: dict[str, CheckFunc] = {
        "async": asynchronous, "sync": synchronous, "awaited": lambda: later(), "after a pause": paused,
    }  # fmt: skip
    checker = Checker()
    checker.add("bad", kinds[kind])
    checker.add("good", passing())

    report = await checker.run()

    assert report.statuses == {"bad": Status.FAIL, "good": Status.PASS}
    assert report.components["bad"].error_type is ErrorType.FAILED
    result = report.components["bad"].result
    assert result is not None
    assert len(result.message or "") <= 1024
    assert "\n" not in (result.message or "")
    (result.message or "").encode()


@pytest.mark.virtual_time
@pytest.mark.parametrize("check", [hanging(), swallowing()], ids=["hanging", "swallowing"])
async def test_a_run_ends_by_its_deadline(check: CheckFunc) -> None:
    """A check that hangs, or swallows its cancellation, fails as `timeout` exactly when its time is up."""
    checker = virtual_checker(timeout=3.0)
    checker.add("stuck", check)
    begun = now()

    report = await checker.run()

    assert now() - begun == pytest.approx(3.0, abs=0.1)
    assert report.components["stuck"].error_type is ErrorType.TIMEOUT


async def test_a_thread_that_blocks_for_ever_ends_by_its_deadline() -> None:
    """A sync check that never returns fails as `timeout`; its thread is left behind, not waited for."""
    blocking = Blocking()
    checker = Checker(timeout=0.1)
    checker.add("stuck", blocking)
    begun = time.monotonic()

    report = await checker.run()

    assert time.monotonic() - begun < 1
    assert report.components["stuck"].error_type is ErrorType.TIMEOUT
    blocking.let_go.set()


@pytest.mark.virtual_time
async def test_an_abandoned_run_is_not_run_again_while_it_lives() -> None:
    """At most one abandoned run for each check: while it lives the check fails at once as `hung`."""
    cancelled: list[object] = []
    checker = virtual_checker(timeout=1.0, ttl=0.5)
    checker.add("stuck", swallowing(cancelled))
    await checker.run()
    await asyncio.sleep(1)
    begun = now()

    report = await checker.run()

    assert now() == begun
    assert report.components["stuck"].error_type is ErrorType.HUNG
    assert report.components["stuck"].consecutive_failures == 2
    assert len(cancelled) == 1
    assert [component.abandoned_runs for component, _ in checker.engine.states()] == [1]


async def test_a_hung_thread_is_forgotten_when_it_ends() -> None:
    """Once the abandoned run has ended, the next one is made as if nothing had been."""
    blocking = Blocking()
    checker = Checker(timeout=0.05, ttl=1e-9)
    checker.add("stuck", blocking)
    await checker.run()
    assert (await checker.run()).components["stuck"].error_type is ErrorType.HUNG
    assert blocking.calls == 1

    blocking.let_go.set()
    await eventually(lambda: [component.abandoned_runs for component, _ in checker.engine.states()] == [0])

    assert (await checker.run()).status is Status.PASS


@pytest.mark.virtual_time
async def test_a_late_result_overwrites_nothing() -> None:
    """What an abandoned run brings in the end is dropped."""
    late = asyncio.Event()

    async def check() -> None:
        while not late.is_set():
            try:
                await late.wait()
            except asyncio.CancelledError:
                continue

    checker = virtual_checker(timeout=1.0)
    checker.add("late", check)
    await checker.run()

    late.set()
    await asyncio.sleep(0.01)

    assert checker.report().components["late"].error_type is ErrorType.TIMEOUT


@pytest.mark.virtual_time
async def test_deadlines_are_each_checks_own() -> None:
    """One slow check condemns nobody else, and each has its own time."""
    checker = virtual_checker()
    checker.add("fast", passing())
    checker.add("short", hanging(), timeout=0.5)
    checker.add("long", functools.partial(asyncio.sleep, 2.0), timeout=2.5)

    report = await checker.run()

    assert report.statuses == {"fast": Status.PASS, "short": Status.FAIL, "long": Status.PASS}
    short = report.components["short"].result
    assert short is not None
    assert short.duration == pytest.approx(0.5, abs=0.01)


async def test_a_block_of_the_loop_is_laid_to_the_check_that_blocked() -> None:
    """A check that blocks the loop past its own deadline times out; its neighbours, ready meanwhile, pass."""
    answered = asyncio.get_running_loop().create_future()

    async def blocker() -> None:
        await asyncio.sleep(0)
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(answered.set_result, None)).start()
        time.sleep(0.4)  # noqa: ASYNC251 - blocking the loop is what is tested.

    async def neighbour() -> None:
        await answered

    loop = asyncio.get_running_loop()
    checker = Checker(timeout=0.2)
    checker.add("neighbour", neighbour, warn_after=0.15)
    checker.add("blocker", blocker)

    report = await checker.run()

    assert report.statuses == {"neighbour": Status.PASS, "blocker": Status.FAIL}
    assert report.components["blocker"].error_type is ErrorType.TIMEOUT
    assert (result := report.components["blocker"].result)
    assert re.fullmatch(r"did not end within 0\.2 s, and blocked the event loop for [\d.]+ s", result.message or "")


async def test_the_time_that_others_blocked_is_given_back_once() -> None:
    """A check that hangs beside one that blocks has its own verdict in the end, in every round."""

    async def blocker() -> None:
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - blocking the loop is what is tested.

    checker = Checker(timeout=0.2, ttl=1e-9)
    checker.add("hanging", hanging())
    checker.add("blocker", blocker)

    async with asyncio.timeout(10):
        for _ in range(3):
            report = await checker.run()
            assert report.components["hanging"].error_type is ErrorType.TIMEOUT


def block(seconds: float) -> None:
    """Hold up the running loop, whose time is virtual."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += seconds


@pytest.mark.virtual_time
async def test_all_that_several_checks_blocked_is_given_back() -> None:
    """Two blocks, with a deadline between them: neither is counted as time that the neighbour took."""

    async def first() -> None:
        await asyncio.sleep(0.01)
        block(0.4)

    async def second() -> None:
        await asyncio.sleep(0.7)
        block(0.4)

    async def neighbour() -> None:
        await asyncio.sleep(0.05)
        block(0.05)
        await asyncio.sleep(0.3)
        await asyncio.sleep(0.15)

    checker = virtual_checker(timeout=2.0, ttl=1e-9)
    checker.add("first", first)
    checker.add("second", second)
    checker.add("neighbour", neighbour, timeout=0.6)

    for _ in range(2):
        await asyncio.sleep(1)
        result = (await checker.run()).components["neighbour"].result

        assert result is not None
        assert result.status is Status.PASS
        assert result.duration == pytest.approx(0.45, abs=0.01)


@pytest.mark.virtual_time
@pytest.mark.parametrize("waits", [False, True], ids=["and ends", "and waits"])
async def test_what_a_first_slice_blocked_is_given_back(*, waits: bool) -> None:
    """A check may block before it has waited for anything."""

    async def blocker() -> None:
        block(0.6)
        if waits:
            await asyncio.sleep(0.01)

    async def neighbour() -> None:
        await asyncio.sleep(0.3)
        await asyncio.sleep(0.3)

    checker = virtual_checker(timeout=2.0)
    checker.add("neighbour", neighbour, timeout=0.5)
    checker.add("blocker", blocker)

    report = await checker.run()

    assert report.statuses == {"neighbour": Status.PASS, "blocker": Status.PASS}


@pytest.mark.virtual_time
async def test_nothing_is_given_back_to_the_check_that_blocked() -> None:
    """However often it did: all of it is its own time."""

    async def blocker() -> None:
        for _ in range(3):
            await asyncio.sleep(0.01)
            block(0.2)

    checker = virtual_checker(timeout=0.5)
    checker.add("blocker", blocker)

    state = (await checker.run()).components["blocker"]

    assert state.error_type is ErrorType.TIMEOUT


async def test_a_block_of_the_loop_by_the_application_condemns_no_check() -> None:
    """What was ready when the loop came back is heard before any deadline is held against it."""
    answered = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    checker = Checker(timeout=0.1)

    async def check() -> None:
        threading.Timer(0.02, lambda: loop.call_soon_threadsafe(answered.set_result, None)).start()
        await answered

    checker.add("innocent", check)
    running = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.01)
    time.sleep(0.3)  # noqa: ASYNC251 - the application blocks its own loop.

    assert (await running).status is Status.PASS


@pytest.mark.virtual_time
async def test_what_was_answered_just_before_a_block_by_the_application_is_heard() -> None:
    """It is the check that the loop comes to first, before any deadline."""
    answered = asyncio.get_running_loop().create_future()

    async def check() -> None:
        await answered

    checker = virtual_checker(timeout=0.2)
    checker.add("innocent", check)
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.1)
    answered.set_result(None)
    block(0.5)

    assert (await waiting).status is Status.PASS


@pytest.mark.virtual_time
async def test_a_call_that_ended_too_late_has_failed_though_nobody_could_look() -> None:
    """The loop was blocked when its time was up, and is told of the end before it comes to the deadline."""
    entered, let_go, left = threading.Event(), threading.Event(), threading.Event()

    def check() -> None:
        entered.set()
        let_go.wait()
        left.set()

    checker = virtual_checker(timeout=0.2)
    checker.add("ldap", check)
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0)
    entered.wait()
    block(0.5)
    let_go.set()
    left.wait()

    assert (await waiting).components["ldap"].error_type is ErrorType.TIMEOUT


async def test_a_block_by_the_application_condemns_none_of_many() -> None:
    """All whose deadline fell into the block get the same grace."""
    checker = Checker(timeout=0.2)
    for number in range(20):
        checker.add(f"c{number}", functools.partial(asyncio.sleep, 0.1))
    for number in range(20):
        checker.add(f"d{number}", functools.partial(asyncio.sleep, 0.1), timeout=0.21)
    running = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.05)
    time.sleep(0.5)  # noqa: ASYNC251 - the application blocks its own loop.

    assert [n for n, status in (await running).statuses.items() if not status.up] == []


@pytest.mark.virtual_time
async def test_a_block_by_the_application_condemns_no_check_beside_a_thread_that_hangs() -> None:
    """That one's deadline comes first, and needs no grace."""
    blocking = Blocking()
    checker = virtual_checker()
    checker.add("ldap", blocking, timeout=0.2)
    checker.add("innocent", functools.partial(asyncio.sleep, 0.25), timeout=0.3)
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.1)
    block(0.5)

    report = await waiting
    blocking.let_go.set()

    assert report.statuses == {"ldap": Status.FAIL, "innocent": Status.PASS}


async def test_a_loop_that_is_always_late_still_brings_a_verdict() -> None:
    """The grace is given once."""

    async def busy() -> None:
        while True:
            time.sleep(0.15)  # noqa: ASYNC251 - a busy application.
            await asyncio.sleep(0.001)

    # No multiple of the blocks: each deadline falls into the middle of one.
    checker = Checker(timeout=0.25)
    checker.add("hanging", hanging())
    application = asyncio.ensure_future(busy())

    async with asyncio.timeout(5):
        report = await checker.run()
    application.cancel()

    assert report.components["hanging"].error_type is ErrorType.TIMEOUT


@pytest.mark.virtual_time
async def test_the_grace_after_a_block_is_a_tenth_of_a_second() -> None:
    """Then a check that hangs has its verdict, though its deadline fell into the block."""
    checker = virtual_checker(timeout=0.2)
    checker.add("hanging", hanging())
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.1)
    block(0.5)
    resumed_at = now()

    report = await waiting

    assert report.components["hanging"].error_type is ErrorType.TIMEOUT
    assert now() - resumed_at == pytest.approx(0.1, abs=0.01)


def test_a_check_that_denies_its_cancellation_is_ended_by_close() -> None:
    """Whatever it does to its task, it is driven no further, and the loop can end."""

    async def denying() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()

    async def main(*, close: bool) -> None:
        checker = Checker(timeout=0.02)
        checker.add("denying", denying)
        if close:
            async with checker:
                await eventually(lambda: checker.report().components["denying"].error_type is ErrorType.TIMEOUT)
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "otel_health"]
        else:
            await checker.run()

    begun = time.monotonic()
    asyncio.run(main(close=True))
    asyncio.run(main(close=False))
    assert time.monotonic() - begun < 3


async def test_a_check_that_cancels_itself_has_failed() -> None:
    """Only a cancellation by others is none of its doing."""

    async def check() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    checker = Checker()
    checker.add("odd", check)

    assert (await checker.run()).components["odd"].error_type is ErrorType.FAILED


async def test_runs_that_are_over_are_forgotten() -> None:
    """Also those whose thread was never needed."""
    checker = Checker(timeout=1.0, ttl=1e-9)
    checker.add("quorum", any_of(a=passing(), b=lambda: None))
    for _ in range(50):
        await checker.run()

    await eventually(lambda: not checker.engine._runner.live)  # noqa: SLF001 - nothing else shows a leak this early.


async def test_a_dropped_run_that_still_has_time_is_no_hung_one() -> None:
    """A slow replica that the quorum did not wait for answers the next one, when it is needed."""
    healthy, replica = True, Blocking()

    async def primary() -> bool:
        await eventually(replica.entered.is_set)
        return healthy

    checker = Checker(timeout=10.0, ttl=1e-9)
    checker.add("quorum", any_of(primary=primary, replica=replica))
    assert (await checker.run()).status is Status.PASS
    healthy = False
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.05)
    replica.let_go.set()

    assert (await waiting).status is Status.PASS
    assert replica.calls == 1


async def test_a_composite_built_inside_a_check_keeps_its_count() -> None:
    """A child of the same name that is still alive is not started again under a new function."""
    let_go = threading.Event()
    calls = 0

    def stuck() -> None:
        nonlocal calls
        calls += 1
        let_go.wait()

    async def dynamic() -> None:
        await any_of(a=functools.partial(asyncio.sleep, 0.02), b=functools.partial(stuck))()  # type: ignore[misc]

    checker = Checker(timeout=0.05, ttl=1e-9)
    checker.add("dynamic", dynamic)
    for _ in range(5):
        await checker.run()
        await asyncio.sleep(0.06)

    assert calls == 1
    assert [component.abandoned_runs for component, _ in checker.engine.states()] == [1]
    let_go.set()
    await eventually(lambda: [component.abandoned_runs for component, _ in checker.engine.states()] == [0])


async def test_a_composite_built_inside_a_check_runs_what_it_was_built_of() -> None:
    """Not what had its names in the run before."""
    answers = iter([passing(), failing()])

    async def dynamic() -> None:
        await any_of(primary=next(answers))()  # type: ignore[misc]

    checker = Checker(ttl=1e-9)
    checker.add("dynamic", dynamic)

    assert [(await checker.run()).status for _ in range(2)] == [Status.PASS, Status.FAIL]


async def test_a_check_that_raises_cancelled_error_has_failed() -> None:
    """Awaiting a future that somebody cancelled is a failure, not a cancellation of ours."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def check() -> None:
        await cancelled

    checker = Checker()
    checker.add("driver", check)

    state = (await checker.run()).components["driver"]

    assert state.result is not None
    assert (state.error_type, state.result.exception_type) == (ErrorType.FAILED, "CancelledError")


async def test_an_inner_timeout_is_a_failure_not_our_deadline() -> None:
    """A driver's TimeoutError is the check's own; only our deadline is `timeout`."""

    async def check() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(1)

    checker = Checker()
    checker.add("driver", check)

    state = (await checker.run()).components["driver"]

    assert state.result is not None
    assert (state.error_type, state.result.exception_type) == (ErrorType.FAILED, "TimeoutError")


async def test_an_outer_cancel_stays_a_cancel() -> None:
    """Cancelling whoever waits cancels the waiting, not the run, and is never turned into a verdict."""
    entered, let_go = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        entered.set()
        await let_go.wait()

    checker = Checker()
    checker.add("slow", check)
    waiting = asyncio.ensure_future(checker.run())
    await entered.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert checker.report().components["slow"].error_type is ErrorType.PENDING

    let_go.set()

    assert (await checker.run()).status is Status.PASS


async def test_a_run_cancelled_from_outside_has_no_verdict() -> None:
    """An application that cancels every task at shutdown is told of no failure, and nobody waits for ever."""
    entered = asyncio.Event()

    async def check() -> None:
        entered.set()
        await asyncio.Event().wait()

    checker = Checker(timeout=3600.0)
    checker.add("postgres", check)
    waiting = asyncio.ensure_future(checker.run())
    await entered.wait()
    for task in asyncio.all_tasks() - {waiting, asyncio.current_task()}:
        if task.get_name() == "otel_health":
            task.cancel()

    async with asyncio.timeout(10):
        report = await waiting

    assert report.components["postgres"].error_type is ErrorType.PENDING


@pytest.mark.parametrize("tick", range(8))
async def test_a_cancellation_at_any_tick_leaves_nobody_waiting(tick: int) -> None:
    """Before the run's task has begun, while it waits, and after it has ended."""

    async def check() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    checker = Checker(ttl=1e-9)
    checker.add("postgres", check)
    waiting = asyncio.ensure_future(checker.run())
    for _ in range(tick):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task.get_name() == "otel_health":
            task.cancel()

    async with asyncio.timeout(5):
        await waiting
        assert (await checker.run()).status is Status.PASS
    assert not checker.engine._runner.live  # noqa: SLF001 - nothing else shows a leak this early.


def test_asyncio_run_ends_though_a_check_swallows_its_cancellation() -> None:
    """What was abandoned is driven no further when the loop's owner cancels everything."""

    async def main() -> None:
        checker = Checker(timeout=0.05)
        checker.add("stuck", swallowing())
        await checker.run()

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < 2


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_context_variables_are_isolated(kind: str) -> None:
    """A check sees neither the requester's context variables nor those of another run."""
    seen: list[str] = []

    def synchronous() -> None:
        seen.append(variable.get())
        variable.set("set by a check")

    async def asynchronous() -> None:
        synchronous()

    checker = Checker(ttl=1e-9)
    checker.add("first", synchronous if kind == "sync" else asynchronous)
    checker.add("second", synchronous if kind == "sync" else asynchronous)
    variable.set("the requester's")

    await checker.run()
    await checker.run()

    assert seen == ["unset"] * 4
    assert variable.get() == "the requester's"


async def test_a_sync_check_may_return_an_awaitable() -> None:
    """`redis.asyncio`'s ping is a plain function that returns an awaitable: it is awaited on the loop."""
    threads: list[object] = []

    async def pong() -> bool:
        threads.append(threading.current_thread())
        return True

    def ping() -> Awaitable[bool]:
        threads.append(threading.current_thread())
        return pong()

    checker = Checker()
    checker.add("redis", ping)

    assert (await checker.run()).status is Status.PASS
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


async def test_a_sync_check_may_return_what_is_awaitable_and_no_coroutine() -> None:
    """Its answer is that of the check."""

    class Answer:
        def __await__(self) -> Generator[None, None, bool]:
            yield
            return False

    checker = Checker()
    checker.add("redis", lambda: Answer())

    state = (await checker.run()).components["redis"]

    assert state.result is not None
    assert (state.error_type, state.result.message) == (ErrorType.FAILED, "returned False")


async def test_a_coroutine_that_a_sync_check_returns_too_late_is_closed() -> None:
    """Nobody would ever await it."""
    blocking = Blocking()
    answer = asyncio.sleep(0)

    def ping() -> Awaitable[None]:
        blocking()
        return answer

    checker = Checker(timeout=0.05)
    checker.add("redis", ping)
    assert (await checker.run()).components["redis"].error_type is ErrorType.TIMEOUT

    blocking.let_go.set()

    await eventually(lambda: inspect.getcoroutinestate(answer) == inspect.CORO_CLOSED)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="functions are marked since Python 3.12")
async def test_what_says_that_it_is_a_coroutine_function_may_return_any_awaitable() -> None:
    """A driver in C, or a decorator, marks itself so, and returns a future."""

    def ping() -> asyncio.Future[bool]:
        answered = asyncio.get_running_loop().create_future()
        answered.set_result(True)
        return answered

    checker = Checker()
    checker.add("redis", inspect.markcoroutinefunction(ping))  # type: ignore[attr-defined, unused-ignore]

    assert (await checker.run()).status is Status.PASS


async def test_a_returned_awaitable_has_the_same_deadline() -> None:
    """The deadline began with the call in the thread."""
    checker = Checker(timeout=0.1)
    checker.add("redis", lambda: asyncio.sleep(60))

    assert (await checker.run()).components["redis"].error_type is ErrorType.TIMEOUT


async def test_hung_sync_checks_do_not_starve_the_others(threads: Callable[[], int]) -> None:
    """400 hung checks are told apart from 100 healthy ones, within the first round, on bounded threads."""
    checker = Checker(timeout=2.0)
    let_go = threading.Event()
    for number in range(400):
        checker.add(f"hung-{number}", let_go.wait)
    for number in range(100):
        checker.add(f"healthy-{number}", lambda: None)

    report = await checker.run()

    wrong = [n for n, status in report.statuses.items() if status.up is n.startswith("hung")]
    assert wrong == []
    assert threads() <= 512
    let_go.set()


async def test_past_the_cap_a_sync_check_is_saturated_not_timed_out(threads: Callable[[], int]) -> None:
    """When no thread comes free within the timeout, nothing is said of the dependency."""
    checker = Checker(timeout=2.0)
    let_go = threading.Event()
    for number in range(600):
        checker.add(f"hung-{number}", let_go.wait)

    report = await checker.run()

    kinds = [state.error_type for state in report.components.values()]
    assert kinds.count(ErrorType.TIMEOUT) == 480
    assert kinds.count(ErrorType.SATURATED) == 120
    assert threads() <= 513
    let_go.set()
    await eventually(lambda: sum(component.abandoned_runs for component, _ in checker.engine.states()) == 0)


async def test_waiting_for_a_thread_costs_a_check_none_of_its_time() -> None:
    """Its deadline starts with its call."""
    let_go = threading.Event()
    checker = Checker(timeout=2.0)
    for number in range(480):  # All the threads there are.
        checker.add(f"blocking-{number}", let_go.wait)
    checker.add("late", lambda: time.sleep(1.5))
    asyncio.get_running_loop().call_later(1.0, let_go.set)

    report = await checker.run()

    assert report.statuses["late"] is Status.PASS


async def test_local_sync_checks_have_threads_of_their_own() -> None:
    """However many dependencies hang, a local check gets a thread."""
    checker = Checker(timeout=0.5)
    let_go = threading.Event()
    for number in range(500):
        checker.add(f"hung-{number}", let_go.wait)
    checker.add("local", lambda: None, local=True, probes={"livez", "readyz"})
    checker.add("parts", all_of(part=lambda: None), local=True, probes={"livez", "readyz"})

    report = await checker.run()

    assert (report.statuses["local"], report.statuses["parts"]) == (Status.PASS, Status.PASS)
    let_go.set()


async def test_the_default_executor_is_left_alone() -> None:
    """A pool that the application has filled delays no check."""
    loop = asyncio.get_running_loop()
    let_go = threading.Event()
    filled = [loop.run_in_executor(None, let_go.wait) for _ in range(40)]
    checker = Checker(timeout=1.0)
    checker.add("sync", lambda: None)

    assert (await checker.run()).status is Status.PASS
    let_go.set()
    await asyncio.gather(*filled)


async def test_closing_ends_what_was_left_behind(threads: Callable[[], int]) -> None:
    """A coroutine that swallows cancellation is closed, its task ends, and idle threads go."""
    closed: list[bool] = []

    async def stubborn() -> None:
        try:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        finally:
            closed.append(True)

    checker = Checker(timeout=0.05)
    checker.add("stubborn", stubborn)
    checker.add("sync", lambda: None)
    checker.add("local", lambda: None, local=True)
    async with checker:
        await eventually(lambda: checker.report().components["stubborn"].error_type is ErrorType.TIMEOUT)

    assert closed == [True]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "otel_health"]
    await eventually(lambda: threads() == 0)


async def test_a_check_that_is_ended_by_closing_may_clean_up() -> None:
    """It gives back its connection, which takes a moment; and as it was not heard, nothing is said of it."""
    entered = asyncio.Event()
    returned: list[str] = []

    async def check() -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            returned.append("connection")

    checker = Checker()
    checker.add("postgres", check)
    async with checker:
        await entered.wait()

    assert returned == ["connection"]
    assert checker.report().components["postgres"].error_type is ErrorType.PENDING


async def test_nothing_is_begun_for_a_check_that_is_being_ended() -> None:
    """What it asks for on its way out would outlive the closing."""
    entered, asked = asyncio.Event(), asyncio.Event()
    replica = Switch()

    async def check() -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            asked.set()
            await any_of(replica=replica)()  # type: ignore[misc]

    checker = Checker()
    checker.add("primary", check)
    async with checker:
        await entered.wait()

    assert asked.is_set()
    assert replica.calls == 0


@pytest.mark.parametrize("outcome", [None, False, ConnectionError()], ids=["passes", "returns False", "raises"])
def test_a_call_that_outlives_its_loop_is_not_made_twice(outcome: object) -> None:
    """A thread knows no loop: the next one waits for what it brings."""
    blocking = Blocking()

    def ping() -> bool | None:
        blocking()
        if isinstance(outcome, Exception):
            raise outcome
        return None if outcome is None else False

    checker = Checker(timeout=20.0)
    checker.add("ldap", ping)

    async def leave() -> None:
        waiting = asyncio.ensure_future(checker.run())
        await eventually(blocking.entered.is_set)
        waiting.cancel()

    async def wait() -> Status:
        waiting = asyncio.ensure_future(checker.run())
        await asyncio.sleep(0.01)
        blocking.let_go.set()
        return (await waiting).status

    asyncio.run(leave())
    assert abandoned(checker) == 0

    assert asyncio.run(wait()) is (Status.PASS if outcome is None else Status.FAIL)
    assert blocking.calls == 1


def test_a_call_that_ends_after_its_loop_is_forgotten() -> None:
    """It hung, and the loop that waited for it is closed: the next run is made as if nothing had been."""
    blocking = Blocking()
    checker = Checker(timeout=0.05, ttl=1e-9)
    checker.add("ldap", blocking)
    assert asyncio.run(checker.run()).components["ldap"].error_type is ErrorType.TIMEOUT
    assert abandoned(checker) == 1

    blocking.let_go.set()
    deadline = time.monotonic() + 10
    while abandoned(checker):
        assert time.monotonic() < deadline
        time.sleep(0.001)

    assert asyncio.run(checker.run()).status is Status.PASS


def abandoned(checker: Checker) -> int:
    """How many runs were left behind, and are still alive."""
    return sum(component.abandoned_runs for component, _ in checker.engine.states())


@pytest.mark.parametrize("timeout", [0.01, 60.0], ids=["abandoned", "under way"])
def test_what_a_closed_loop_has_left_is_no_hung_run(timeout: float) -> None:
    """Its coroutines are driven by nobody, and never will be."""
    healthy = False
    stuck = swallowing()

    async def check() -> None:
        if not healthy:
            await stuck()

    checker = Checker(timeout=timeout, ttl=1e-9)
    checker.add("postgres", check)

    async def leave() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(checker.run(), 0.1)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    healthy = True

    assert asyncio.run(checker.run()).status is Status.PASS
    assert not checker.engine._runner.live  # noqa: SLF001 - nothing else shows a leak this early.


def test_what_had_not_begun_on_a_closed_loop_is_not_begun_on_the_next() -> None:
    """Nobody waits for it any more, and the round that comes first runs every check once."""
    calls = 0

    async def check() -> None:
        nonlocal calls
        calls += 1

    checker = Checker(ttl=1e-9)
    for number in range(500):
        checker.add(f"check-{number}", check)

    async def leave() -> None:
        asyncio.ensure_future(checker.run())  # noqa: RUF006 - it is left behind.
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    before = calls
    assert before < 500

    asyncio.run(checker.run())
    assert calls == before + 500


async def test_thousands_of_checks_begin_in_batches() -> None:
    """The loop gets its turn between batches, so that requests are answered while a round begins."""
    turns = 0
    checker = Checker()
    for number in range(3000):
        checker.add(f"check-{number}", passing())

    async def application() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(application())
    await asyncio.sleep(0)
    report = await checker.run()
    other.cancel()

    assert report.status is Status.PASS
    assert turns >= 3000 / 256


@pytest.mark.virtual_time
async def test_one_run_of_a_check_at_a_time() -> None:
    """A check that takes longer than its interval is never run twice at once."""
    running = 0
    most = 0

    async def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(3)
        running -= 1

    checker = virtual_checker(timeout=5.0, interval=1.0)
    checker.add("slow", slow)
    async with checker:
        await asyncio.sleep(60)

    assert most == 1


def test_a_hung_thread_does_not_hold_up_exit() -> None:
    """The interpreter exits at once, and says nothing, though a hundred checks hang."""
    program = """
import asyncio, threading
from otel_health import Checker
checker = Checker(timeout=0.05)
for number in range(100):
    checker.add(f"hung-{number}", threading.Event().wait)
print(asyncio.run(checker.run()).status)
"""
    begun = time.monotonic()
    ended = _python(program)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.count("Traceback")) == (0, "fail", 0)
    assert time.monotonic() - begun < 10


class Handlers:
    """What a process may do on Ctrl-C."""

    def method(self, *_: object) -> None:
        """As an application object's."""
        raise KeyboardInterrupt

    def passing_on(self, number: int, frame: Any) -> None:
        """As one does that restores the terminal first."""
        signal.default_int_handler(number, frame)


def function(*_: object) -> None:
    """As a script's."""
    raise KeyboardInterrupt


HANDLERS: list[Any] = [
    signal.default_int_handler, function, functools.partial(function), Handlers().method, Handlers().passing_on,
]  # fmt: skip


@pytest.mark.parametrize("handler", HANDLERS, ids=["default", "function", "partial", "method", "passing on"])
@pytest.mark.parametrize("after", ["at once", "after a pause"])
def test_a_real_interrupt_is_the_users_not_the_checks(handler: Any, after: str) -> None:
    """One that lands in a check's slice stops the program; one that the check raises is its failure."""
    pressing = True

    async def busy() -> None:
        if after == "after a pause":
            await asyncio.sleep(0)
        if not pressing:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    checker = Checker(ttl=1e-9)
    checker.add("busy", busy)
    before = signal.signal(signal.SIGINT, handler)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(checker.run())
        pressing = False
        assert loop.run_until_complete(checker.run()).components["busy"].error_type is ErrorType.FAILED
    finally:
        signal.signal(signal.SIGINT, before)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_a_real_interrupt_still_stops_the_process() -> None:
    """The second Ctrl-C, which `asyncio.run` raises at once: no verdict keeps it, and no one who denies the first."""
    program = """
import asyncio, contextlib, os, signal, time
from otel_health import Checker
checker = Checker()
async def busy():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
checker.add("busy", busy)
async def main():
    with contextlib.suppress(asyncio.CancelledError):
        await checker.run()
asyncio.run(main())
"""
    begun = time.monotonic()
    ended = _python(program)
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr
    assert time.monotonic() - begun < 10


def _python(program: str) -> Any:

    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.virtual_time
async def test_an_event_of_many_deadlines_is_kept_in_order() -> None:
    """Runs of different and equal timeouts each end on time."""
    checker = virtual_checker()
    for number in range(50):
        checker.add(f"hang-{number}", hanging(), timeout=0.5 + (number % 5) / 2)
    begun = now()
    ends: dict[str, float] = {}
    checker.subscribe(lambda transition: ends.update({transition.component: now() - begun}))

    await checker.run()

    for number in range(50):
        assert ends[f"hang-{number}"] == pytest.approx(0.5 + (number % 5) / 2, abs=0.01)


async def test_a_switch_is_run_as_an_async_callable(threads: Callable[[], int]) -> None:
    """Objects with an async `__call__` run on the loop."""
    switch = Switch()
    checker = Checker()
    checker.add("switch", switch)

    assert (await checker.run()).status is Status.PASS
    assert threads() == 0
