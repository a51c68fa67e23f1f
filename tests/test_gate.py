"""Gates: switches that the application turns, seen at once wherever anybody looks."""

import asyncio
import gc
import itertools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from otel_health import Checker, ErrorType, Status, Transition
from otel_health.gate import Gate
from otel_health.prometheus import PrometheusExporter
from tests.doubles import eventually, passing
from tests.virtual import virtual_checker


def in_thread(call: Callable[[], object]) -> None:
    """Make the call in another thread, and wait for it."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def directly(call: Callable[[], object]) -> None:
    """Make the call here."""
    call()


anywhere = pytest.mark.parametrize("calling", [directly, in_thread])


@anywhere
def test_before_anything_runs_a_turn_is_seen_by_the_next_report(calling: Any) -> None:
    """No loop is needed: the state is the switch."""
    checker = Checker()
    gate = checker.gate("config", reason="loading")
    state = checker.report().components["config"]
    assert (state.status, state.error_type) == (Status.FAIL, ErrorType.FAILED)
    assert state.result is not None
    assert state.result.message == "loading"

    calling(gate.open)
    assert checker.report().status is Status.PASS
    calling(lambda: gate.close("draining"))
    assert checker.report().status is Status.FAIL


@anywhere
@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.virtual_time
async def test_a_turn_is_seen_at_once_in_both_modes(calling: Any, *, opened: bool) -> None:
    """By report(), by run(), though the last result is younger than the ttl, and by a probe over HTTP."""
    checker = virtual_checker(interval=1000.0, ttl=1000.0)
    gate = checker.gate("config", ready=True)
    checker.add("redis", passing())
    if opened:
        await checker.__aenter__()
    await checker.run()
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://orders") as client:
        for ready in (True, False, True, False):
            calling(gate.open if ready else gate.close)

            assert checker.report().status.up is ready
            assert (await checker.run()).status.up is ready
            assert (await client.get("/readyz")).status_code == (200 if ready else 503)
            assert (await client.get("/readyz/config")).status_code == (200 if ready else 503)
    await checker.__aexit__(None, None, None)


async def test_the_gate_says_how_it_stands() -> None:
    """Open, or closed for a reason, which is redacted as every message is."""
    gate = Checker().gate("config")
    assert (gate.is_open, gate.reason) == (False, "closed")

    gate.open()
    assert (gate.is_open, gate.reason) == (True, None)
    gate.close("cannot read postgresql://orders:hunter2@db/orders")

    assert gate.reason == "cannot read postgresql://***@db/orders"


@pytest.mark.virtual_time
async def test_a_turn_is_told_once_and_a_new_reason_is_no_transition() -> None:
    """Listeners hear of it on the loop, in the order of the turns."""
    seen: list[Transition] = []
    checker = virtual_checker()
    gate = checker.gate("config", reason="loading")
    checker.subscribe(seen.append)
    async with checker:
        await asyncio.sleep(0.1)
        gate.close("still loading")
        gate.open()
        gate.open()
        gate.close("draining")
        state = checker.report().components["config"]
        await asyncio.sleep(0.1)

    assert [(told.before, told.after) for told in seen] == [
        (None, Status.FAIL),
        (Status.FAIL, Status.PASS),
        (Status.PASS, Status.FAIL),
    ]
    assert state.result is not None
    assert state.result.message == "draining"


@pytest.mark.virtual_time
async def test_thresholds_do_not_hold_up_a_gate() -> None:
    """A switch that was turned is turned, whatever the Checker's own defaults are."""
    checker = virtual_checker(failure_threshold=3, success_threshold=3)
    gate = checker.gate("config", ready=True)
    async with checker:
        assert checker.report().status is Status.PASS
        gate.close()
        assert checker.report().status is Status.FAIL
        gate.open()
        assert checker.report().status is Status.PASS


async def test_a_gate_is_logged_and_measured_as_any_check_is(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each transition; the gauges follow."""
    caplog.set_level(logging.INFO, "otel_health")
    exporter = PrometheusExporter(service_name="orders")
    checker = Checker(meter_provider=exporter.meter_provider)
    gate = checker.gate("config", reason="loading")
    async with checker:
        gate.open()
        await eventually(lambda: len(caplog.records) == 2)
        gate.close("draining")
        async with AsyncClient(transport=ASGITransport(app=exporter.route().app), base_url="http://orders") as client:
            metrics = (await client.get("/metrics")).text
        await eventually(lambda: len(caplog.records) == 3)

    assert 'otel_health_check_up{component="config"} 0.0' in metrics
    assert 'otel_health_probe_up{probe="readyz"} 0.0' in metrics
    assert [record.getMessage().partition(" (after")[0] for record in caplog.records] == [
        "config: pending -> fail (failed: loading)",
        "config: fail -> pass",
        "config: pass -> fail (failed: draining)",
    ]
    exporter.shutdown()


async def test_a_gate_may_be_renewed_as_anything_else() -> None:
    """It says what it has said before."""
    checker = Checker()
    checker.gate("config", ready=True)

    checker.renew("config")

    assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_a_gate_never_goes_stale() -> None:
    """It is a fact of this process's memory: there is nothing to renew."""
    checker = virtual_checker()
    checker.gate("config", ready=True)
    await checker.run()

    await asyncio.sleep(1_000_000)

    assert checker.report().status is Status.PASS


async def test_a_gate_that_is_not_critical_warns() -> None:
    """And one may stand on livez, since it looks only inside this process."""
    checker = Checker()
    checker.gate("cache-warm", critical=False)
    checker.gate("wedged", ready=True, probes={"livez"})

    assert checker.report().status is Status.WARN
    assert checker.report("livez").statuses == {"wedged": Status.PASS}


async def test_a_gate_that_was_removed_turns_without_effect() -> None:
    """Whoever still holds it does no harm, and a new check of its name is another one."""
    checker = Checker()
    gate = checker.gate("config")
    checker.remove("config")
    other = checker.gate("config", ready=True)

    gate.close("late")

    assert checker.report().status is Status.PASS
    assert other.is_open


async def test_an_included_gate_turns_in_both_checkers() -> None:
    """A copy of its check is a copy of its component, too."""
    inner, outer = Checker(), Checker()
    gate = inner.gate("config", ready=True)
    outer.include("orders", inner)

    gate.close()

    assert (inner.report().status, outer.report().status) == (Status.FAIL, Status.FAIL)
    inner.remove("config")
    gate.open()
    assert outer.report().status is Status.PASS


def test_an_included_gate_keeps_no_checker_alive() -> None:
    """It may be turned for years after those that it was included in are gone."""
    inner, outer = Checker(), Checker()
    gate = inner.gate("config", ready=True)
    outer.include("orders", inner)
    gone = weakref.ref(outer.engine)

    del outer
    gc.collect()

    assert gone() is None
    gate.close()
    assert inner.report().status is Status.FAIL


async def test_what_is_planned_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A gate that is closed from the start is told at INFO, and one that is closed on purpose at WARNING."""
    caplog.set_level(logging.INFO, "otel_health")
    checker = Checker()
    gate = checker.gate("config", reason="loading")
    async with checker:
        gate.open()
        gate.close("loading again")
        await eventually(lambda: len(caplog.records) == 3)

    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert lines == [
        (logging.INFO, "config: pending -> fail (failed: loading)"),
        (logging.INFO, "config: fail -> pass (after 0.0 s)"),
        (logging.WARNING, "config: pass -> fail (failed: loading again)"),
    ]


@pytest.mark.virtual_time
async def test_a_gate_works_on_after_the_checker_was_closed() -> None:
    """Probes that come during the shutdown see it turned."""
    checker = virtual_checker()
    gate = checker.gate("config", ready=True)
    async with checker:
        pass

    gate.close()

    assert checker.report().status is Status.FAIL


async def test_many_threads_turn_one_gate() -> None:
    """What the last one says holds, and every transition that was told follows from the one before."""
    seen: list[Transition] = []
    checker = Checker(logger=logging.Logger("silent", logging.CRITICAL))
    gate = checker.gate("config")
    checker.subscribe(seen.append)

    def turn() -> None:
        for _ in range(100):
            gate.open()
            gate.close()

    async with checker:
        threads = [threading.Thread(target=turn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        gate.open()
        assert checker.report().status is Status.PASS
        await asyncio.sleep(0.05)

    assert seen[-1].after is Status.PASS
    assert all(after.before is before.after for before, after in itertools.pairwise(seen))


async def test_a_gate_is_a_check_function() -> None:
    """One that was made alone may be registered, with the options of any check."""
    checker = Checker()
    gate = Gate(reason="loading")
    checker.add("config", gate, probes={"startupz"})

    assert checker.report("startupz").status is Status.FAIL
    gate.open()
    assert checker.report("startupz").status is Status.PASS
    gate.close()
    assert checker.report("startupz").status is Status.PASS


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ready": "yes"}, "gate 'config': ready='yes' must be True or False"),
        ({"probes": "readyz"}, "check 'config': probes='readyz' must be a set of names"),
        ({"critical": 1}, "check 'config': critical=1 must be True or False"),
        ({"reason": None}, "a gate's reason is one sentence for the operator, not NoneType"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: str) -> None:
    """Where it is written, with a sentence that names it."""
    with pytest.raises((ValueError, TypeError), match=error):
        Checker().gate("config", **options)


def test_a_taken_name_is_refused() -> None:
    """A gate is a check among the others."""
    checker = Checker()
    checker.gate("config")

    with pytest.raises(ValueError, match="a check named 'config' is already registered"):
        checker.gate("Config")


@pytest.mark.virtual_time
async def test_turns_before_there_was_a_loop_are_told_on_the_first() -> None:
    """None is lost, and none is told in a thread that is not the loop's."""
    seen: list[Status] = []
    checker = virtual_checker()
    gate = checker.gate("config")
    checker.subscribe(lambda transition: seen.append(transition.after))
    gate.open()
    assert seen == []

    await checker.run()
    await asyncio.sleep(0.01)

    assert seen == [Status.FAIL, Status.PASS]


def test_a_gate_that_was_removed_holds_on_to_nobody() -> None:
    """A Checker may go before what turned its components."""
    checker = Checker()
    gate = checker.gate("config")
    checker.remove("config")

    assert gate.down == frozenset()
    assert gate._watchers == ()  # noqa: SLF001 - what it holds on to shows nowhere else.
