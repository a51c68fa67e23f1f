"""Heartbeats: workers that are noticed when they are not heard of."""

import asyncio
import re
import threading
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from otel_health import Checker, ErrorType, Status
from tests.doubles import passing
from tests.virtual import now, virtual_checker


def message(checker: Checker, name: str = "consumer", probe: str = "readyz") -> str | None:
    """What the component's last result says."""
    result = checker.report(probe).components[name].result
    return None if result is None else result.message


@pytest.mark.virtual_time
async def test_a_missing_beat_fails_with_its_age() -> None:
    """The age is in the message, and among the observations."""
    checker = virtual_checker()
    consumer = checker.heartbeat("consumer", max_age=60)
    consumer.beat()
    assert checker.report().status is Status.PASS

    await asyncio.sleep(61.2)

    state = checker.report().components["consumer"]
    assert (state.status, state.error_type) == (Status.FAIL, ErrorType.FAILED)
    assert state.result is not None
    assert state.result.message == "no beat for 61.2 s; max_age is 60 s"
    assert state.result.observations["age"] == pytest.approx(61.2)
    consumer.beat()
    assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_before_the_first_beat_it_is_pending_and_then_fails() -> None:
    """Never up on faith; a worker that never begins is noticed, by livez too, but not before its time."""
    checker = virtual_checker()
    checker.heartbeat("consumer", max_age=60, probes={"livez", "readyz"})
    await asyncio.sleep(59.9)
    assert checker.report().components["consumer"].error_type is ErrorType.PENDING
    assert checker.report().status is Status.FAIL
    assert checker.report("livez").status is Status.PASS

    await asyncio.sleep(0.2)

    assert checker.report("livez").status is Status.FAIL
    assert message(checker) == "no beat since the start 60.1 s ago; max_age is 60 s"


@pytest.mark.virtual_time
async def test_the_time_to_the_first_beat_counts_from_the_opening() -> None:
    """What was registered at import is not late because the application took its time to start."""
    checker = virtual_checker()
    checker.heartbeat("consumer", max_age=60)
    await asyncio.sleep(50)
    async with checker:
        await asyncio.sleep(59.9)
        assert checker.report().components["consumer"].error_type is ErrorType.PENDING
        await asyncio.sleep(0.2)
        assert checker.report().components["consumer"].error_type is ErrorType.FAILED


@pytest.mark.virtual_time
async def test_a_reopened_checker_waits_for_the_next_beat() -> None:
    """While it was closed nobody had to beat."""
    checker = virtual_checker()
    beat = checker.heartbeat("consumer", max_age=60)
    async with checker:
        beat.beat()
    await asyncio.sleep(3600)

    async with checker:
        await asyncio.sleep(59)
        assert checker.report().status is Status.PASS
        await asyncio.sleep(2)
        assert checker.report().status is Status.FAIL


@pytest.mark.parametrize("max_age", [0.5, 5.0, 60.0, 3600.0])
@pytest.mark.virtual_time
async def test_an_open_checker_tells_of_a_missing_beat_in_time_and_of_the_next_at_once(max_age: float) -> None:
    """Within a tenth of max_age; nobody has to ask."""
    told: list[tuple[Status, float]] = []
    checker = virtual_checker(interval=10.0)
    consumer = checker.heartbeat("consumer", max_age=max_age)
    checker.subscribe(lambda transition: told.append((transition.after, now())))
    async with checker:
        for _ in range(20):
            consumer.beat()
            await asyncio.sleep(max_age * 0.9)
        last = now() - max_age * 0.9
        await asyncio.sleep(max_age * 3)
        beaten = now()
        consumer.beat()
        await asyncio.sleep(0.01)

    assert [status for status, _ in told] == [Status.PASS, Status.FAIL, Status.PASS]
    assert 0 <= told[1][1] - last - max_age <= max_age / 10
    assert told[2][1] == pytest.approx(beaten)


@pytest.mark.virtual_time
async def test_a_suspended_process_is_judged_by_its_age_when_somebody_reads() -> None:
    """No timer has to fire first, and who reads need not be on the loop."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0])
    consumer = checker.heartbeat("consumer", max_age=60)
    consumer.beat()
    assert checker.report().status is Status.PASS

    clock[0] += 3600

    assert checker.report().status is Status.FAIL
    assert message(checker) == "no beat for 3600.0 s; max_age is 60 s"
    consumer.beat()
    assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_a_blip_that_was_answered_for_is_not_remembered() -> None:
    """An answer that was given while the beat was late does not outlive the next beat."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0])
    consumer = checker.heartbeat("consumer", max_age=60)
    consumer.beat()
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://orders") as client:
        assert (await client.get("/readyz")).status_code == 200
        clock[0] += 61
        assert (await client.get("/readyz")).status_code == 503
        consumer.beat()
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.virtual_time
async def test_a_beat_that_is_early_wakes_nobody() -> None:
    """A thousand beats between two looks cost no thousand looks."""
    checker = virtual_checker(interval=10.0)
    consumer = checker.heartbeat("consumer", max_age=60)
    consumer.beat()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    consumer.watch(look)
    for _ in range(1000):
        consumer.beat()

    assert looks == 0


async def test_beats_come_from_many_threads() -> None:
    """None is lost, whatever judges it at the same time."""
    checker = Checker()
    consumer = checker.heartbeat("consumer", max_age=0.001)

    def worker() -> None:
        for _ in range(2000):
            consumer.beat()
            checker.report()

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    checker.remove("consumer")
    steady = checker.heartbeat("consumer", max_age=1000)
    steady.beat()
    assert checker.report().status is Status.PASS


# Jobs.


@pytest.mark.virtual_time
async def test_a_job_beats_when_it_succeeds() -> None:
    """As a context manager, and as a decorator of sync and async functions, which keep their names and results."""
    checker = virtual_checker()
    nightly = checker.heartbeat("nightly", max_age=3600)

    @nightly.job(expected=30)
    async def tidy(number: int) -> int:
        """Tidy."""
        return number + 1

    @nightly.job(expected=30)
    def count(number: int) -> int:
        return number + 2

    with nightly.job(expected=30):
        assert checker.report().status is Status.FAIL
    assert checker.report().status is Status.PASS
    for result in (await tidy(1), count(0)):
        await asyncio.sleep(3599)
        assert result == 2
    assert checker.report().status is Status.FAIL
    await tidy(1)
    assert checker.report().status is Status.PASS
    await asyncio.sleep(3601)
    count(1)
    assert checker.report().status is Status.PASS
    assert (tidy.__name__, tidy.__doc__) == ("tidy", "Tidy.")


@pytest.mark.virtual_time
async def test_a_job_that_raises_gives_no_beat() -> None:
    """And its exception passes on."""
    checker = virtual_checker()
    nightly = checker.heartbeat("nightly", max_age=60)

    @nightly.job(expected=30)
    async def broken() -> None:
        raise LookupError("nothing there")

    nightly.beat()
    await asyncio.sleep(50)
    with pytest.raises(LookupError, match="nothing there"):
        await broken()
    await asyncio.sleep(11)

    assert message(checker, "nightly") == "no beat for 61.0 s; max_age is 60 s"


@pytest.mark.virtual_time
async def test_a_job_that_takes_too_long_fails_while_it_runs() -> None:
    """It is told of as soon as it is late, and forgiven when it succeeds."""
    told: list[tuple[Status, float]] = []
    checker = virtual_checker(interval=10.0)
    nightly = checker.heartbeat("nightly", max_age=3600)
    nightly.beat()
    checker.subscribe(lambda transition: told.append((transition.after, now())))
    async with checker:
        await asyncio.sleep(5)
        begun = now()
        with nightly.job(expected=30):
            await asyncio.sleep(31.5)
            assert checker.report().status is Status.FAIL
            await asyncio.sleep(10)
            text = message(checker, "nightly")
        await asyncio.sleep(0.1)
        assert checker.report().status is Status.PASS

    assert text is not None
    assert re.fullmatch(r"a job has run for \d\d\.\d s; 30 s were expected", text)
    assert told[1][0] is Status.FAIL
    assert 30 <= told[1][1] - begun <= 33
    assert told[2][0] is Status.PASS
    assert told[2][1] == pytest.approx(begun + 41.5)


@pytest.mark.virtual_time
async def test_a_late_job_that_raises_is_late_no_more() -> None:
    """What remains is the age of the last beat."""
    checker = virtual_checker()
    nightly = checker.heartbeat("nightly", max_age=3600)
    nightly.beat()

    @nightly.job(expected=30)
    async def broken() -> None:
        await asyncio.sleep(31)
        assert checker.report().status is Status.FAIL
        raise LookupError

    with pytest.raises(LookupError):
        await broken()

    assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_jobs_that_overlap_are_late_each_for_itself() -> None:
    """A quick one that succeeds does not excuse a slow one."""
    checker = virtual_checker()
    nightly = checker.heartbeat("nightly", max_age=3600)

    @nightly.job(expected=30)
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    slow = asyncio.ensure_future(work(100))
    await asyncio.sleep(20)
    await work(15)
    assert checker.report().status is Status.FAIL
    await slow
    assert checker.report().status is Status.PASS


def test_a_job_object_runs_once_at_a_time() -> None:
    """Two runs of one object could not be told apart."""
    nightly = Checker().heartbeat("nightly", max_age=60)
    job = nightly.job(expected=1)

    with job:
        pass
    with job, pytest.raises(RuntimeError, match="running already"):
        job.__enter__()


def test_a_generator_function_is_no_job() -> None:
    """Its call does not do the work."""
    nightly = Checker().heartbeat("nightly", max_age=60)

    with pytest.raises(TypeError, match="rows is a generator function"):

        @nightly.job(expected=1)
        def rows() -> Any:
            yield 1


@pytest.mark.parametrize("seconds", [0, -1, True, "60", float("nan"), float("inf")])
def test_times_that_make_no_sense_are_refused(seconds: Any) -> None:
    """Where they are written."""
    checker = Checker()
    with pytest.raises(ValueError, match=r"heartbeat 'consumer': max_age=.* must be a positive, finite number"):
        checker.heartbeat("consumer", max_age=seconds)
    with pytest.raises(ValueError, match=r"job: expected=.* must be a positive, finite number"):
        checker.heartbeat("consumer", max_age=1).job(expected=seconds)


# Startup.


@pytest.mark.virtual_time
async def test_a_slow_start_is_not_killed() -> None:
    """For 60 s startupz and readyz fail, and livez passes; then startup has succeeded for good."""
    checker = virtual_checker(interval=10.0)
    migrated = checker.gate("migrations", reason="migrating", probes={"startupz", "readyz"})
    checker.add("postgres", passing())
    worker = checker.heartbeat("worker", max_age=10, probes={"livez"})
    async with checker:
        for _ in range(60):
            await asyncio.sleep(1)
            worker.beat()
            statuses = [checker.report(probe).status.up for probe in ("livez", "startupz", "readyz")]
            assert statuses == [True, False, False]
        migrated.open()
        assert all(checker.report(probe).status.up for probe in ("livez", "startupz", "readyz"))
        migrated.close("draining")
        assert [checker.report(probe).status.up for probe in ("startupz", "readyz")] == [True, False]


@pytest.mark.virtual_time
async def test_a_beat_is_heard_by_every_checker_that_listens() -> None:
    """One that has not noticed the silence yet keeps the beat from nobody else."""
    inner, outer = virtual_checker(), virtual_checker()
    consumer = inner.heartbeat("consumer", max_age=60)
    outer.include("orders", inner)
    consumer.beat()
    await asyncio.sleep(61)
    assert (inner.report().status, outer.report().status) == (Status.FAIL, Status.FAIL)
    await outer.run()

    consumer.beat()

    assert (inner.report().status, outer.report().status) == (Status.PASS, Status.PASS)


@pytest.mark.virtual_time
async def test_an_answer_that_was_kept_is_not_given_past_the_jobs_time() -> None:
    """A job that begins brings forward the time until which the component is believed."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0], ttl=1e6)
    nightly = checker.heartbeat("nightly", max_age=3600)
    nightly.beat()
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://orders") as client:
        assert (await client.get("/readyz")).status_code == 200
        with nightly.job(expected=30):
            clock[0] += 31
            assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.virtual_time
async def test_on_demand_a_missing_beat_is_told_of_by_whoever_reads_it_first() -> None:
    """As staleness is: there is no schedule that would look."""
    told: list[Status] = []
    checker = virtual_checker()
    consumer = checker.heartbeat("consumer", max_age=60)
    consumer.beat()
    checker.subscribe(lambda transition: told.append(transition.after))
    await checker.run()
    await asyncio.sleep(61)
    assert told == [Status.PASS]

    checker.report()
    await asyncio.sleep(0.01)

    assert told == [Status.PASS, Status.FAIL]
