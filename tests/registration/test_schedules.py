"""What registrations go through in months, in seconds: `tests.soak` holds the same for longer."""

import asyncio
from functools import partial

import pytest

from otel_health.registration import Registration
from tests.doubles import passing
from tests.registration.consul_agent import ConsulAgent
from tests.registration.schedules import (
    BACK,
    ORDERS,
    TTL,
    Line,
    Tardy,
    World,
    false_expiries,
    heartbeats,
    herd,
    in_virtual_time,
    live_through,
    over,
)
from tests.virtual import now, virtual_checker


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_schedule_ends_with_a_ghost_or_a_resurrection(first: int) -> None:
    """Ready, not ready, a wiped agent, a cut line, a pause, maintenance, a drain, a restart: in any order."""
    faults = [fault for seed in range(first, first + 20) for fault in in_virtual_time(partial(live_through, seed))]

    assert faults == []


def test_a_fifth_of_all_packets_lost_for_an_hour_takes_nobody_out() -> None:
    """TTL 15 s: a heartbeat that fails is made up for before the registry notices."""
    wrong, calls = in_virtual_time(partial(false_expiries, 1, 3600.0, 0.2))

    assert wrong == 0
    assert calls < 1500, "nor does it flood the agent"


def test_heartbeats_keep_their_time_for_an_hour() -> None:
    """TTL 3 s: never more than a third of it between two."""
    gaps = in_virtual_time(partial(heartbeats, 3.0, 3600.0))

    assert len(gaps) >= 3600
    assert min(gaps) > 0.8
    assert max(gaps) <= 1.01


def test_a_fleet_does_not_come_back_as_a_herd() -> None:
    """200 instances find the agent again after a minute: all within 10 s, and never many more than a tenth at once."""
    back = in_virtual_time(partial(herd, 200))

    assert len(back) == 200
    assert max(back) <= BACK
    assert max(sum(at <= each < at + 0.1 for each in back) for at in back) <= 30


@pytest.mark.virtual_time
async def test_after_a_pause_longer_than_the_ttl_it_registers_anew() -> None:
    """Its own clock says that nobody can have waited for it: it does not go on as if nothing had been."""
    world = World(0)
    await world.open()
    await world.turn_ready()
    await asyncio.sleep(2.5)  # Between two heartbeats: none is under way.
    world.agent.requests.clear()

    world.loop.now += 2 * TTL
    await asyncio.sleep(5.0)

    assert "PUT /v1/agent/service/register" in world.agent.requests[:2]
    assert world.agent.status(ORDERS) == "passing"
    await world.close()


@pytest.mark.virtual_time
async def test_an_instance_that_fails_for_long_is_forgotten_and_comes_back() -> None:
    """Consul sweeps what is critical for too long, though it lives: the next heartbeat registers it again."""
    world = World(0)
    await world.open()
    await world.turn_ready()
    await asyncio.sleep(1.0)
    await world.turn_unready()
    seen = []
    for _ in range(13_000):
        await asyncio.sleep(0.05)
        seen.append(world.agent.status(ORDERS))
    gone = [number for number, status in enumerate(seen) if status is None]

    assert 1 <= len(gone) <= 110
    assert seen[-1] == "critical"
    await world.close()


@pytest.mark.virtual_time
async def test_a_dead_registry_is_called_rarely_and_told_of_rarely() -> None:
    """An hour without one: a call every few seconds, and nothing else is different."""
    loop = asyncio.get_running_loop()
    line = Line(ConsulAgent(loop.time), World(0).chance)
    line.is_cut = True
    asked = 0
    ask = line.ask

    async def asking(method: str, path: str, body: object = None) -> object:
        nonlocal asked
        asked += 1
        return await ask(method, path, body)

    line.ask = asking  # type: ignore[method-assign, assignment]
    checker = virtual_checker()
    checker.gate("warm", ready=True)
    async with checker, Registration(checker, over(line), service="orders", address="127.0.0.1", port=8000):
        await asyncio.sleep(3600.0)
        assert checker.report().status == "pass"

    assert 300 < asked < 1000


@pytest.mark.virtual_time
async def test_what_a_slow_agent_registers_after_the_withdrawal_is_taken_back() -> None:
    """The call was given up, and nobody can tell whether it was heard."""
    agent = ConsulAgent(now)
    async with virtual_checker() as checker:
        checker.add("ok", passing())
        where = {"service": "orders", "address": "127.0.0.1", "port": 8000}
        async with Registration(checker, over(Tardy(agent)), **where):  # type: ignore[arg-type]
            await asyncio.sleep(0.3)
            begun = now()
        assert now() - begun <= 1.5
        assert "PUT /v1/agent/service/register" in agent.requests
        await asyncio.sleep(2)

    assert agent.services == {}
