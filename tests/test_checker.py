"""The Checker: one state, renewed on demand or in the background, for every sink."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from otel_health import Checker, CheckFunc, ErrorType, Failed, Status, Transition
from tests.doubles import Blocking, Switch, eventually, failing, hanging, passing, swallowing
from tests.virtual import now, virtual_checker

# On demand.


@pytest.mark.virtual_time
def test_a_check_is_added_to_a_checker_whose_loop_was_closed_under_it() -> None:
    """Nothing is scheduled, and nothing is raised: it is registered."""
    checker = Checker()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(checker.__aenter__())
    loop.close()

    checker.add("late", passing())

    assert "late" in checker


@pytest.mark.virtual_time
async def test_a_result_younger_than_the_ttl_is_not_renewed() -> None:
    """The ttl bounds how often anybody's asking can make a check run."""
    switch = Switch()
    checker = virtual_checker(ttl=1.0)
    checker.add("redis", switch)

    await checker.run()
    await asyncio.sleep(0.99)
    await checker.run()
    assert switch.calls == 1

    await asyncio.sleep(0.02)
    await checker.run()
    assert switch.calls == 2


@pytest.mark.virtual_time
async def test_a_long_ttl_makes_nothing_stale() -> None:
    """Who asks gets a new result once the old one is believed no more, however long the ttl."""
    switch = Switch()
    checker = virtual_checker(ttl=60.0, interval=10.0, timeout=3.0)
    checker.add("redis", switch)

    for _ in range(20):
        assert (await checker.run()).status is Status.PASS
        await asyncio.sleep(5.0)

    assert switch.calls == 4


@pytest.mark.virtual_time
async def test_one_run_serves_all() -> None:
    """A thousand who ask at once cause one run of each check."""
    calls = 0

    async def check() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)

    checker = virtual_checker()
    checker.add("postgres", check)

    reports = await asyncio.gather(*(checker.run() for _ in range(1000)))

    assert calls == 1
    assert {report.status for report in reports} == {Status.PASS}


@pytest.mark.virtual_time
async def test_probes_that_share_a_check_share_its_run() -> None:
    """Single flight is per check, not per probe."""
    calls = 0

    async def check() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)

    checker = virtual_checker()
    checker.add("postgres", check, probes={"readyz", "startupz"})

    await asyncio.gather(checker.run("readyz"), checker.run("startupz"), checker.run("healthz"))

    assert calls == 1


@pytest.mark.virtual_time
async def test_only_the_checks_of_the_probe_are_run() -> None:
    """Asking livez asks no dependency."""
    dependency, local = Switch(), Switch()
    checker = virtual_checker()
    checker.add("postgres", dependency)
    checker.add("deadlock", local, probes={"livez"}, local=True)

    report = await checker.run("livez")

    assert report.statuses == {"deadlock": Status.PASS}
    assert (dependency.calls, local.calls) == (0, 1)


async def test_before_its_first_run_a_check_is_pending() -> None:
    """Never up before the first success."""
    checker = Checker()
    checker.add("postgres", passing())

    report = checker.report()

    assert report.status is Status.FAIL
    state = report.components["postgres"]
    assert (state.error_type, state.result) == (ErrorType.PENDING, None)


@pytest.mark.parametrize("probe", ["livez", "readyz", "startupz", "healthz"])
async def test_a_probe_without_checks_passes(probe: str) -> None:
    """With nothing to ask, it says that the process answers."""
    assert (await Checker().run(probe)).status is Status.PASS


async def test_an_unknown_probe_is_refused_with_the_known_ones() -> None:
    """A misspelt probe would otherwise be healthy for ever."""
    checker = Checker()
    checker.add("mail", passing(), probes={"wellness"})

    with pytest.raises(ValueError, match="'redyz'; known: livez, readyz, startupz, healthz, wellness"):
        await checker.run("redyz")
    assert (await checker.run("wellness")).status is Status.PASS


@pytest.mark.parametrize(("probe", "meant"), [("ready", "readyz"), ("live", "livez"), ("redyz", "readyz")])
def test_a_slip_in_the_name_of_a_probe_is_warned_of(probe: str, meant: str) -> None:
    """It is a probe of its own then, and the one that was meant would pass without ever asking the check."""
    checker = Checker()

    with pytest.warns(UserWarning, match=f"'{probe}' is a probe of its own, and {meant} does not ask") as told:
        checker.add("mail", passing(), probes={probe})

    assert told[0].filename == __file__
    assert checker.get("mail").probes == {probe}


@pytest.mark.virtual_time
async def test_startup_latches() -> None:
    """Once each of its checks has passed once, startupz passes for good, whatever comes."""
    first, second = Switch(), Switch()
    first.error = Failed("not yet")
    checker = virtual_checker()
    checker.add("first", first, probes={"startupz"})
    checker.add("second", second, probes={"startupz"})

    assert (await checker.run("startupz")).status is Status.FAIL
    first.error, second.error = None, Failed("down")
    await asyncio.sleep(2)
    assert (await checker.run("startupz")).status is Status.PASS
    checker.add("third", failing(), probes={"startupz"})
    assert (await checker.run("startupz")).status is Status.PASS


@pytest.mark.virtual_time
async def test_every_reader_of_a_probe_is_told_the_same() -> None:
    """What a probe excuses, the metrics excuse: a pending liveness check, and what was up once at start-up."""
    was_up = Switch()
    checker = virtual_checker()
    checker.add("pending", hanging(), local=True, probes={"livez"})
    checker.add("was-up", was_up, probes={"startupz"})
    checker.add("never-up", failing(), probes={"startupz"}, critical=False)
    await checker.run("startupz")
    was_up.error = Failed("down")
    await asyncio.sleep(2)
    await checker.run("startupz")

    found = {probe: checker.report(probe).status for probe in checker.probes}

    assert found == {"livez": Status.PASS, "readyz": Status.PASS, "startupz": Status.WARN, "healthz": Status.FAIL}
    assert checker.engine.probe_statuses() == found


async def test_startup_latches_when_the_last_that_held_it_up_is_removed() -> None:
    """What is no longer asked holds up nobody."""
    checker = Checker()
    checker.add("first", passing(), probes={"startupz"})
    checker.add("second", failing(), probes={"startupz"})
    await checker.run("startupz")
    checker.remove("second")
    checker.add("third", failing(), probes={"startupz"})

    assert (await checker.run("startupz")).status is Status.PASS


@pytest.mark.virtual_time
async def test_a_verdict_expires_by_itself() -> None:
    """After two intervals and the timeout nobody believes it any more, in every reader at once."""
    seen: list[Transition] = []
    checker = virtual_checker(interval=10.0, timeout=3.0)
    checker.add("postgres", passing())
    checker.subscribe(seen.append)
    await checker.run()

    await asyncio.sleep(22.9)
    assert checker.report().status is Status.PASS
    await asyncio.sleep(0.2)
    state = checker.report().components["postgres"]
    checker.report()
    await asyncio.sleep(0.01)

    assert (state.status, state.error_type) == (Status.FAIL, ErrorType.STALE)
    assert [(t.before, t.after, t.state.error_type) for t in seen] == [
        (None, Status.PASS, None),
        (Status.PASS, Status.FAIL, ErrorType.STALE),
    ]


@pytest.mark.virtual_time
async def test_a_renewal_heals_what_nobody_saw_expire() -> None:
    """A Checker asked once a minute is not told stale in between: the asking renews first."""
    seen: list[Transition] = []
    checker = virtual_checker()
    checker.add("postgres", passing())
    checker.subscribe(seen.append)

    for _ in range(3):
        assert (await checker.run()).status is Status.PASS
        await asyncio.sleep(60)

    assert len(seen) == 1


# In the background.


@pytest.mark.virtual_time
async def test_an_open_checker_renews_by_itself() -> None:
    """Each interval once, plus or minus 10 %."""
    runs: list[float] = []

    async def check() -> None:
        runs.append(now())

    checker = virtual_checker(interval=10.0)
    checker.add("postgres", check)
    async with checker:
        await asyncio.sleep(1000)

    gaps = [after - before for before, after in itertools.pairwise(runs)]
    assert 90 <= len(runs) <= 112
    assert all(8.99 <= gap <= 11.01 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.5


@pytest.mark.virtual_time
async def test_start_does_not_wait_for_the_first_round() -> None:
    """Readiness fails as pending until the first round is in."""
    checker = virtual_checker()
    checker.add("slow", lambda: None)
    checker.remove("slow")

    async def slow() -> None:
        await asyncio.sleep(2)

    checker.add("slow", slow)
    begun = now()
    async with checker:
        assert now() == begun
        assert checker.report().components["slow"].error_type is ErrorType.PENDING
        await asyncio.sleep(2.1)
        assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_a_second_look_follows_a_change_within_a_second() -> None:
    """So that thresholds decide quickly."""
    runs: list[float] = []
    switch = Switch()

    async def check() -> None:
        runs.append(now())
        await switch()

    checker = virtual_checker(interval=10.0, failure_threshold=3)
    checker.add("postgres", check)
    async with checker:
        await asyncio.sleep(5)
        switch.error = ConnectionError("refused")
        await eventually(lambda: not checker.report().status.up, seconds=20)
        failed_at = now()

    assert failed_at - runs[1] < 2.1
    assert len(runs) == 4


@pytest.mark.virtual_time
async def test_a_healthy_start_needs_no_second_look() -> None:
    """The first pass is no change to be doubted."""
    switch = Switch()
    checker = virtual_checker(interval=10.0)
    checker.add("postgres", switch)
    async with checker:
        await asyncio.sleep(8)

    assert switch.calls == 1


@pytest.mark.virtual_time
async def test_initial_delay() -> None:
    """A check may ask to be left alone for a while after the start."""
    switch = Switch()
    checker = virtual_checker(interval=10.0)
    checker.add("postgres", switch, initial_delay=30.0)
    async with checker:
        await asyncio.sleep(29)
        assert switch.calls == 0
        await asyncio.sleep(2)
        assert switch.calls == 1


@pytest.mark.virtual_time
async def test_an_open_checker_is_not_run_by_probes() -> None:
    """Probes of an open Checker only read."""
    switch = Switch()
    checker = virtual_checker(interval=10.0)
    checker.add("postgres", switch)
    async with checker:
        await asyncio.sleep(5)
        assert checker.renewal("readyz") is None
        assert switch.calls == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("mode", ["on demand", "open"])
async def test_a_check_that_takes_longer_than_the_answer_is_ready_from_the_second_probe_on(mode: str) -> None:
    """What is still being renewed is answered from the result before."""

    async def slow() -> None:
        await asyncio.sleep(1.2)

    checker = virtual_checker()
    checker.add("slow", slow)

    async def probe() -> Status:
        renewal = checker.renewal("readyz")
        if renewal is not None:
            await asyncio.wait([renewal], timeout=checker.answer_within)
        return checker.report().status

    async def probes() -> list[Status]:
        answers = []
        for _ in range(4):
            answers.append(await probe())
            await asyncio.sleep(10)
        return answers

    if mode == "open":
        async with checker:
            answers = await probes()
    else:
        answers = await probes()

    assert answers == [Status.FAIL, Status.PASS, Status.PASS, Status.PASS]


@pytest.mark.virtual_time
async def test_when_the_scheduler_dies_the_state_fails() -> None:
    """A dead scheduler is seen by its silence: within two intervals and the timeout."""
    checker = virtual_checker(interval=10.0, timeout=3.0)
    checker.add("postgres", passing())
    async with checker:
        await asyncio.sleep(1)
        checker.engine._schedule.stop()  # noqa: SLF001 - the fault is injected.
        await asyncio.sleep(21)
        assert checker.report().status is Status.PASS
        await asyncio.sleep(2)
        assert checker.report().components["postgres"].error_type is ErrorType.STALE


@pytest.mark.virtual_time
async def test_checks_may_come_and_go_while_it_is_open() -> None:
    """A new one is run at once; a removed one is run no more, and its name is free."""
    first, second = Switch(), Switch()
    checker = virtual_checker(interval=1.0)
    checker.add("redis", first)
    async with checker:
        await asyncio.sleep(3)
        checker.remove("redis")
        calls = first.calls
        checker.add("redis", second)
        assert checker.report().components["redis"].error_type is ErrorType.PENDING
        await asyncio.sleep(3)
        assert (first.calls, checker.report().status) == (calls, Status.PASS)
        assert second.calls >= 3


@pytest.mark.virtual_time
async def test_removing_a_check_drops_the_run_in_flight() -> None:
    """Its result is nobody's, even when the name is taken anew."""
    let_go = asyncio.Event()

    async def slow() -> None:
        await let_go.wait()

    checker = virtual_checker()
    checker.add("redis", slow)
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.1)
    checker.remove("redis")
    checker.add("redis", hanging(), timeout=1.0)
    let_go.set()
    await waiting

    assert checker.report().components["redis"].error_type is ErrorType.PENDING


async def test_a_check_that_hangs_is_not_started_again_by_adding_it_anew() -> None:
    """Not while its last run is alive; another function under its name is another check."""
    blocking = Blocking()
    checker = Checker(timeout=0.05, ttl=1e-9)
    checker.add("redis", blocking)
    assert (await checker.run()).components["redis"].error_type is ErrorType.TIMEOUT

    checker.remove("redis")
    checker.add("redis", blocking)

    state = (await checker.run()).components["redis"]
    assert (state.error_type, blocking.calls) == (ErrorType.HUNG, 1)
    checker.remove("redis")
    checker.add("redis", passing())
    assert (await checker.run()).status is Status.PASS
    blocking.let_go.set()


async def test_a_call_that_was_dropped_counts_for_the_check_that_is_added_anew() -> None:
    """Its function is not called beside itself, and its time has begun with the call."""
    blocking = Blocking()
    checker = Checker(timeout=20.0)
    checker.add("redis", blocking)
    waiting = asyncio.ensure_future(checker.run())
    await eventually(blocking.entered.is_set)
    checker.remove("redis")
    await waiting

    checker.add("redis", blocking, timeout=0.1)
    result = (await checker.run()).components["redis"].result
    blocking.let_go.set()

    assert result is not None
    assert (result.error_type, blocking.calls) == (ErrorType.TIMEOUT, 1)
    assert result.duration is not None
    assert result.duration >= 0.1


async def test_removing_a_check_ends_the_run_in_flight() -> None:
    """It is cancelled then, not when its time is up."""
    cancelled = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    checker = Checker(timeout=3600.0)
    checker.add("redis", slow)
    waiting = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.01)
    checker.remove("redis")

    async with asyncio.timeout(5):
        await cancelled.wait()
        await waiting


@pytest.mark.virtual_time
async def test_a_failing_component_that_goes_stale_is_a_transition() -> None:
    """Its status stays what it was, and yet nobody knows it any more."""
    seen: list[Transition] = []
    checker = virtual_checker(interval=10.0, timeout=3.0)
    checker.add("postgres", failing())
    await checker.run()
    checker.subscribe(seen.append)
    await asyncio.sleep(23)
    checker.report()
    await asyncio.sleep(0)

    assert [(each.before, each.after, each.state.error_type) for each in seen] == [
        (Status.FAIL, Status.FAIL, ErrorType.STALE)
    ]


@pytest.mark.virtual_time
async def test_each_time_that_a_component_goes_stale_is_a_transition() -> None:
    """However often it is looked at meanwhile."""
    seen: list[Status] = []
    checker = virtual_checker(interval=10.0, timeout=3.0)
    checker.add("postgres", passing())
    checker.subscribe(lambda transition: seen.append(transition.after))

    for _ in range(2):
        await checker.run()
        await asyncio.sleep(24)
        for _ in range(3):
            checker.report()
        await asyncio.sleep(0)

    assert seen == [Status.PASS, Status.FAIL, Status.PASS, Status.FAIL]


async def test_removing_and_adding_from_other_threads() -> None:
    """The registry may be changed and read from anywhere while checks run."""
    checker = Checker(interval=0.01, ttl=1e-9)
    for number in range(50):
        checker.add(f"fixed-{number}", passing())
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn(thread: int) -> None:
        try:
            while not stop.is_set():
                checker.add(f"mobile-{thread}", passing())
                checker.report("healthz")
                checker.remove(f"mobile-{thread}")
                stop.wait(0.0005)
        except BaseException as error:  # noqa: BLE001 - shown by the test.
            errors.append(error)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(4)]
    async with checker:
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        await asyncio.sleep(0.1)
        assert errors == []
        assert checker.report().status is Status.PASS
    assert len(checker.names) == 50


async def test_an_unknown_name_is_named_with_the_known_ones() -> None:
    """A KeyError that helps."""
    checker = Checker()
    checker.add("redis", passing())

    for ask in (checker.get, checker.remove):
        with pytest.raises(KeyError, match="no check is named 'postgres'; registered: redis"):
            ask("postgres")


async def test_get_returns_the_check_with_the_checkers_defaults() -> None:
    """The Checker's own options are its checks' defaults."""
    checker = Checker(timeout=1.5, interval=7.0, failure_threshold=3)
    checker.add("redis", passing(), interval=2.0)

    check = checker.get("redis")

    assert (check.timeout, check.interval, check.failure_threshold) == (1.5, 2.0, 3)
    assert "redis" in checker
    assert "postgres" not in checker
    assert 3 not in checker


async def test_opening_twice_is_refused() -> None:
    """Two schedulers would run every check twice."""
    checker = Checker()
    async with checker:
        with pytest.raises(RuntimeError, match="already open"):
            await checker.__aenter__()


async def test_it_may_be_opened_again_after_it_was_closed() -> None:
    """Closing is no end."""
    switch = Switch()
    checker = Checker()
    checker.add("redis", switch)
    async with checker:
        await eventually(lambda: switch.calls == 1)
    async with checker:
        await eventually(lambda: switch.calls == 2)
    assert checker.report().status is Status.PASS


def test_a_checker_belongs_to_one_loop_at_a_time() -> None:
    """A call from another loop is refused; after the first is closed, a new one may have it."""
    checker = Checker(ttl=1e-9)
    checker.add("redis", passing())
    refused: list[str] = []

    def other_loop() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop that is still open") as caught:
            asyncio.run(checker.run())
        refused.append(str(caught.value))
        assert checker.report().status is Status.PASS

    async def main() -> None:
        await checker.run()
        await asyncio.to_thread(other_loop)

    asyncio.run(main())
    asyncio.run(main())

    assert len(refused) == 2


# Composition and subscription.


async def test_include_copies_the_checks_of_another() -> None:
    """They carry their policy, and a prefix."""
    payments, orders = Checker(timeout=1.0), Checker()
    payments.add("postgres", passing(), critical=False)
    orders.include("payments", payments)
    payments.add("later", passing())

    assert orders.names == ("payments.postgres",)
    check = orders.get("payments.postgres")
    assert (check.timeout, check.critical) == (1.0, False)
    assert (await orders.run()).status is Status.PASS


async def test_include_is_all_or_nothing() -> None:
    """A name that is taken adds nothing."""
    payments, orders = Checker(), Checker()
    for name in ("redis", "postgres"):
        payments.add(name, passing())
    orders.add("payments.postgres", passing())

    with pytest.raises(ValueError, match=r"'payments.postgres' is already registered; choose another prefix"):
        orders.include("payments", payments)
    assert orders.names == ("payments.postgres",)
    with pytest.raises(ValueError, match="cannot include itself"):
        orders.include("self", orders)


@pytest.mark.virtual_time
async def test_listeners_hear_each_transition_once() -> None:
    """The first decision has no before; a repeat is no transition."""
    seen: list[tuple[Status | None, Status]] = []
    switch = Switch()
    checker = virtual_checker()
    checker.add("redis", switch)
    unsubscribe = checker.subscribe(lambda transition: seen.append((transition.before, transition.after)))

    for error in (None, None, Failed("a"), Failed("b"), None):
        switch.error = error
        await checker.run()
        await asyncio.sleep(2)
    unsubscribe()
    unsubscribe()
    switch.error = Failed("c")
    await checker.run()

    assert seen == [(None, Status.PASS), (Status.PASS, Status.FAIL), (Status.FAIL, Status.PASS)]


async def test_a_listener_that_raises_is_logged_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """The others are called, the verdict stands."""
    seen: list[Transition] = []
    checker = Checker()
    checker.add("redis", passing())

    def broken(_: Transition) -> None:
        raise RuntimeError("listener")

    checker.subscribe(broken)
    checker.subscribe(seen.append)

    assert (await checker.run()).status is Status.PASS
    assert len(seen) == 1
    assert "broken raised RuntimeError at redis" in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), SystemExit(3), KeyboardInterrupt()])
async def test_whatever_a_listener_raises_the_checks_go_on(error: BaseException) -> None:
    """Not even what would end a loop gets out of it, be the transition by a result or by a deadline."""
    switch, slow = Switch(), Switch()

    async def hang() -> None:
        await slow()
        if slow.calls > 1:
            await asyncio.Event().wait()

    def listener(_: Transition) -> None:
        raise error

    checker = Checker(interval=0.02, timeout=0.05)
    checker.add("redis", switch)
    checker.add("slow", hang)
    checker.subscribe(listener)
    async with checker:
        await eventually(lambda: slow.calls >= 4 and switch.calls >= 4)


async def test_removing_a_check_while_a_round_begins_leaves_nobody_waiting() -> None:
    """Neither those who asked, nor those who ask later."""
    checker = Checker(ttl=1e-9)
    checker.add("first", failing())
    checker.add("second", passing())
    checker.subscribe(lambda _: checker.remove("second") if "second" in checker else None)

    async with asyncio.timeout(5):
        await checker.run()
        await checker.run()

    assert checker.names == ("first",)


async def test_closing_leaves_nobody_waiting() -> None:
    """Whoever waits for runs that were not begun yet is answered from the state as it stands."""
    checker = Checker(ttl=1e-9)
    for number in range(3000):
        checker.add(f"c{number}", hanging())
    async with asyncio.timeout(10):
        async with checker:
            waiting = asyncio.ensure_future(checker.run())
            await asyncio.sleep(0.001)
        assert (await waiting).status is Status.FAIL


async def test_a_close_that_is_cancelled_still_closes() -> None:
    """And the Checker may be opened again."""
    checker = Checker(timeout=0.01)
    checker.add("stuck", swallowing())
    checker.add("redis", passing())

    async def life() -> None:
        async with checker:
            await eventually(lambda: checker.report().components["stuck"].error_type is ErrorType.TIMEOUT)

    living = asyncio.ensure_future(life())
    await eventually(lambda: checker.report().components["stuck"].error_type is ErrorType.TIMEOUT)
    await eventually(lambda: not checker.is_open)
    living.cancel()
    await asyncio.gather(living, return_exceptions=True)

    async with checker:
        assert checker.is_open
        await eventually(lambda: checker.report().components["redis"].status.up)


def test_a_loop_that_is_closed_under_it_takes_its_openness_along() -> None:
    """Servers and test clients close loops without a word: it is open no longer, and may be opened in the next."""
    checker = Checker()
    checker.add("database", passing())
    for _ in range(2):
        with asyncio.Runner() as runner:
            runner.run(checker.__aenter__())
            assert checker.is_open
        assert not checker.is_open


async def test_a_checker_that_is_being_closed_is_not_opened_or_run() -> None:
    """Two lives at once would end each other's schedule."""
    checker = Checker(timeout=0.01)
    checker.add("stuck", swallowing())
    await checker.__aenter__()
    await eventually(lambda: checker.report().components["stuck"].error_type is ErrorType.TIMEOUT)
    closing = asyncio.ensure_future(checker.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already open"):
        await checker.__aenter__()
    with pytest.raises(RuntimeError, match="is being closed"):
        await checker.run()
    assert checker.renewal("readyz") is None
    await closing


def test_a_coroutine_function_cannot_listen() -> None:
    """It would never be awaited."""

    async def listener(_: Transition) -> None: ...

    with pytest.raises(TypeError, match="pass a plain function"):
        Checker().subscribe(listener)  # type: ignore[arg-type]


# As a lifespan.


def lifespan_log(log: list[str]) -> Callable[[Starlette], Any]:
    """A lifespan that writes down what it does."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        log.append("application opened")
        yield {"pool": "open"}
        log.append("application closed")

    return lifespan


async def test_the_applications_lifespan_surrounds_the_checkers() -> None:
    """Pools are open before the first check runs, and closed after the last; its state is handed on."""
    log: list[str] = []
    checker = Checker()

    @checker.check("pool")
    async def pool() -> None:
        log.append("checked")

    app = Starlette()
    async with checker.lifespan_with(lifespan_log(log))(app) as state:
        await eventually(lambda: "checked" in log)
        assert state == {"pool": "open"}

    assert log == ["application opened", "checked", "application closed"]


def test_what_is_no_lifespan_is_refused() -> None:
    """Where it is written, not when the application starts."""

    async def bare(_: object) -> AsyncIterator[None]:
        yield

    with pytest.raises(TypeError, match="a _AsyncGeneratorContextManager is no lifespan; pass a function"):
        Checker().lifespan_with(lifespan_log([])(Starlette()))
    with pytest.raises(TypeError, match=r"lifespan_with: decorate bare with contextlib\.asynccontextmanager"):
        Checker().lifespan_with(bare)  # type: ignore[arg-type]


async def test_the_checker_is_a_lifespan_by_itself() -> None:
    """`Starlette(lifespan=checker.lifespan)`."""
    checker = Checker()
    checker.add("redis", passing())
    async with checker.lifespan(Starlette()):
        await eventually(lambda: checker.report().status.up)


async def test_the_decorator_returns_the_function() -> None:
    """What is registered stays callable as it was."""
    checker = Checker()

    @checker.check("redis", critical=False)
    async def redis() -> None: ...

    assert await redis() is None  # type: ignore[func-returns-value]
    assert checker.names == ("redis",)


@pytest.mark.parametrize("check", [passing(), lambda: None])
def test_constructing_and_registering_starts_nothing(check: CheckFunc) -> None:
    """No thread, task or socket before something is started."""
    before = threading.active_count()
    checker = Checker()
    checker.add("redis", check)
    checker.routes()
    checker.asgi()
    checker.report()

    assert threading.active_count() == before


@pytest.mark.virtual_time
async def test_asking_an_open_checker_does_not_make_it_run_more_often() -> None:
    """A run that somebody asked for takes the place of the one that was to come."""
    switch = Switch()
    checker = virtual_checker(interval=10.0)
    checker.add("redis", switch)
    async with checker:
        for _ in range(10):
            await asyncio.sleep(2)
            await checker.run()
        asked = switch.calls
        await asyncio.sleep(100)

    assert switch.calls - asked <= 12


@pytest.mark.virtual_time
async def test_the_interval_counts_from_the_start_of_a_run() -> None:
    """What a slow check takes for itself makes it no rarer."""
    calls = 0

    async def slow() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(5)

    checker = virtual_checker(interval=10.0, timeout=6.0)
    checker.add("slow", slow)
    async with checker:
        await asyncio.sleep(200)

    assert calls >= 18


@pytest.mark.virtual_time
async def test_a_change_is_looked_at_again_within_a_second() -> None:
    """Whether it lasts is known long before the interval is over."""
    switch = Switch()
    checker = virtual_checker(interval=60.0)
    checker.add("redis", switch)
    async with checker:
        await asyncio.sleep(5)
        switch.error = Failed("down")
        checker.renew("redis")
        await asyncio.sleep(0.01)
        assert (checker.report().status, switch.calls) == (Status.FAIL, 2)

        await asyncio.sleep(1)

        assert switch.calls == 3


# Renewed because somebody knows more.


@pytest.mark.virtual_time
async def test_a_check_is_renewed_when_somebody_says_so() -> None:
    """In an open Checker the run begins at once, on its loop."""
    switch = Switch()
    ran_in: set[threading.Thread] = set()

    async def check() -> None:
        ran_in.add(threading.current_thread())
        await switch()

    checker = virtual_checker(interval=10.0)
    checker.add("redis", check)
    async with checker:
        await asyncio.sleep(0.1)
        switch.error = Failed("down")

        thread = threading.Thread(target=checker.renew, args=("redis",))
        thread.start()
        thread.join()
        await asyncio.sleep(0.01)

        assert checker.report().status is Status.FAIL
    assert ran_in == {threading.current_thread()}


def test_between_two_loops_somebody_may_call_a_result_too_old() -> None:
    """The next one to ask has it renewed."""
    switch = Switch()
    checker = Checker(ttl=60.0)
    checker.add("redis", switch)
    asyncio.run(checker.run())
    checker.renew("redis")

    asyncio.run(checker.run())

    assert switch.calls == 2


@pytest.mark.virtual_time
async def test_on_demand_the_next_probe_renews_what_somebody_called_too_old() -> None:
    """However young the result is; before anything has run it changes nothing."""
    switch = Switch()
    checker = virtual_checker()
    checker.add("redis", switch)
    checker.renew("redis")
    await checker.run()

    checker.renew("redis")
    assert switch.calls == 1
    await checker.run()

    assert switch.calls == 2


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.virtual_time
async def test_a_request_during_a_run_causes_another_one_after_it(*, opened: bool) -> None:
    """The run under way may have begun before what the caller knows; and whoever waits, waits for the second."""
    begun: list[float] = []

    async def slow() -> None:
        begun.append(now())
        await asyncio.sleep(1.0)

    checker = virtual_checker(interval=10.0)
    checker.add("redis", slow)
    if opened:
        await checker.__aenter__()
    asked = asyncio.ensure_future(checker.run())
    await asyncio.sleep(0.5)
    for _ in range(3):
        checker.renew("redis")
    await asked

    assert [at - begun[0] for at in begun] == [0.0, 1.0]
    assert now() - begun[0] == 2.0
    await checker.__aexit__(None, None, None)


async def test_renewing_what_is_not_there_is_refused() -> None:
    """A check that was removed has nobody to renew; the message names those that are left."""
    checker = Checker()
    checker.add("redis", passing())

    with pytest.raises(KeyError, match="no check is named 'postgres'; registered: redis"):
        checker.renew("postgres")
