"""Registrations in virtual time: what may happen to them, at random moments, and what must hold whatever happens.

The agent is the protocol server of these tests, the line to it loses, cuts and is repaired, and an hour takes a second.
"""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any, Final

from otel_health import Checker, Gate
from otel_health.registration import ConsulRegistry, Registration
from otel_health.registration.json_api import Spoken
from tests.registration.consul_agent import ConsulAgent
from tests.virtual import VirtualLoop, virtual_checker

TTL: Final = 15.0
ORDERS: Final = "orders-127.0.0.1-8000"
SHOWN: Final = 1.0
"""Seconds in which a change is shown, while the line is whole."""
BACK: Final = 10.0
"""Seconds in which a registration is back, once the line is whole again."""


class Line:
    """The way to an agent: what `JsonApi` is, without a network."""

    def __init__(self, agent: ConsulAgent, chance: random.Random) -> None:
        self._agent = agent
        self._chance = chance
        self.is_cut = False
        self.loss = 0.0
        """The share of packets that is lost."""

    async def ask(self, method: str, path: str, body: object = None) -> Spoken:
        """Ask, over a new connection: each of its packets may be lost, and is sent again after a while."""
        for first in (1.0, 0.2):  # The connection's own packets are sent again after a second, all others sooner.
            await self._travel(first)
        status, said = self._agent.answer(method, path, {}, b"" if body is None else json.dumps(body).encode())
        await self._travel(0.2)
        return Spoken(status, said)

    async def _travel(self, again_after: float) -> None:
        await asyncio.sleep(0.001)
        while self.is_cut or self._chance.random() < self.loss:
            await asyncio.sleep(again_after)
            again_after *= 2


class Tardy:
    """The way to an agent that carries out a registration late, whether or not anybody still waits for it."""

    def __init__(self, agent: ConsulAgent) -> None:
        self._agent = agent
        self._under_way: set[asyncio.Task[Spoken]] = set()

    async def ask(self, method: str, path: str, body: object = None) -> Spoken:
        """Ask, and wait for what nothing can call back."""
        task = asyncio.ensure_future(self._carried_out(method, path, body))
        self._under_way.add(task)
        return await asyncio.shield(task)

    async def _carried_out(self, method: str, path: str, body: object) -> Spoken:
        if path.endswith("/service/register"):
            await asyncio.sleep(0.8)
        status, said = self._agent.answer(method, path, {}, b"" if body is None else json.dumps(body).encode())
        return Spoken(status, said)


def over(line: Line | Tardy, ttl: float = TTL) -> ConsulRegistry:
    """Return Consul at the end of a line."""
    registry = ConsulRegistry(ttl=ttl)
    registry._api = line  # type: ignore[assignment]  # noqa: SLF001 - the network is not what is tested here.
    return registry


class World:
    """One instance, its process, the line and the agent; and a watcher who sees every answer of the agent."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.agent = ConsulAgent(loop.time)
        self.faults: list[str] = []
        self.log: list[str] = []
        self._whole_since = loop.time()
        self._turned_at = loop.time()
        self._was_ready = False
        self._withdrawn = False
        self._left_at = float("-inf")
        """When a process ended without being heard: for a TTL the agent may believe in it."""
        self._dead: list[tuple[Checker, Registration]] = []
        self._start()

    def _start(self) -> None:
        self.line = Line(self.agent, self.chance)
        self.checker = virtual_checker()
        self.gate: Gate = self.checker.gate("warm")
        self.registration = Registration(
            self.checker, over(self.line), service="orders", address="127.0.0.1", port=8000
        )
        self._was_ready = self._withdrawn = False

    async def open(self) -> None:
        """Start the process."""
        await self.checker.__aenter__()
        await self.registration.__aenter__()

    async def close(self) -> None:
        """End it in good order, and what was killed before as well."""
        await self.registration.__aexit__(None, None, None)
        await self.checker.__aexit__(None, None, None)
        self._withdrawn = True
        for checker, registration in self._dead:
            await registration.__aexit__(None, None, None)
            await checker.__aexit__(None, None, None)

    # What may happen.

    async def turn_ready(self) -> None:
        """The service becomes ready."""
        if not self.gate.is_open:
            self.gate.open()
            self._turned_at = self.loop.now
            self._was_ready = True

    async def turn_unready(self) -> None:
        """The service is not ready any more."""
        if self.gate.is_open:
            self.gate.close()
            self._turned_at = self.loop.now

    async def lose(self) -> None:
        """The agent forgets everything."""
        self.agent.wipe()
        self._whole_since = self.loop.now

    async def cut(self) -> None:
        """The line is cut, or repaired."""
        self.line.is_cut = not self.line.is_cut
        self._whole_since = self.loop.now

    async def pause(self) -> None:
        """The process is stopped and goes on later (SIGSTOP, SIGCONT)."""
        self.loop.now += self.chance.uniform(1.0, 4 * TTL)
        self._whole_since = self.loop.now

    async def maintain(self) -> None:
        """An operator takes the instance out, and puts it back."""
        self.registration.start_maintenance("disk")
        await asyncio.sleep(self.chance.uniform(0.0, 3.0))
        self.registration.end_maintenance()
        self._turned_at = self.loop.now

    async def drain(self) -> None:
        """The service is told to end."""
        reached = not self.line.is_cut and not self._withdrawn and self._was_ready
        await self.registration.withdraw()
        self._withdrawn = True
        if self.line.is_cut:
            self._left_at = self.loop.now
        if reached and self.agent.status(ORDERS) is not None:
            self.faults.append("withdrawn, and still there")

    async def restart(self) -> None:
        """The process ends in good order, or is killed, and another one takes its place."""
        if self.chance.random() < 0.5:
            await self.drain()
            await self.registration.__aexit__(None, None, None)
            await self.checker.__aexit__(None, None, None)
        else:
            self.line.is_cut = True  # A dead process says nothing more.
            self.registration._calls.drop()  # noqa: SLF001 - nor does what it has under way.
            self._dead.append((self.checker, self.registration))
            self._left_at = self.loop.now
        self._start()
        await self.open()
        self._whole_since = self._turned_at = self.loop.now

    # What must hold.

    def look(self) -> None:
        """Compare what the agent shows with what is true."""
        shown, now = self.agent.status(ORDERS), self.loop.now
        settled = not self.line.is_cut and now - self._whole_since > BACK
        if self._withdrawn and settled and now - self._left_at > TTL and shown not in (None, "critical"):
            self.faults.append("resurrected")
        if not self._withdrawn and not self._was_ready and shown == "passing" and now - self._left_at > TTL:
            self.faults.append("registered before it was ready")
        if self._withdrawn or not self._was_ready or not settled:
            return
        expected = "passing" if self.gate.is_open else "critical"
        if now - self._turned_at > SHOWN and shown != expected:
            self.faults.append(f"shown as {shown}, and is {expected}")

    async def last(self, seconds: float) -> None:
        """Let time pass, and look five times a second."""
        ends = self.loop.now + seconds
        while self.loop.now < ends:
            await asyncio.sleep(0.2)
            self.look()


EVENTS: Final[tuple[Callable[[World], Any], ...]] = (
    World.turn_ready, World.turn_ready, World.turn_unready, World.lose, World.cut, World.cut,
    World.pause, World.maintain, World.drain, World.restart,
)  # fmt: skip


async def live_through(seed: int, events: int = 12) -> list[str]:
    """Live through a schedule of events; what went wrong, and when nothing did, nothing."""
    world = World(seed)
    await world.open()
    for _ in range(events):
        event = world.chance.choice(EVENTS)
        world.log.append(event.__name__)
        await event(world)
        await world.last(world.chance.choice((0.1, 0.5, 2.0, 12.0, 40.0)))
    if world.line.is_cut:
        await world.cut()
    await world.last(BACK + SHOWN + 1)
    await world.close()
    await world.last(2 * TTL)
    if world.agent.status(ORDERS) not in (None, "critical"):
        world.faults.append("left behind as if it were well")
    await asyncio.sleep(600.0)
    if world.agent.status(ORDERS) is not None:
        world.faults.append("a ghost that nobody sweeps")
    return [f"seed {seed}: {fault} after {', '.join(world.log)}" for fault in dict.fromkeys(world.faults)]


def in_virtual_time(live: Callable[[], Any]) -> Any:
    """Live through something at the speed of the machine."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(live())


async def false_expiries(seed: int, seconds: float, loss: float) -> tuple[int, int]:
    """How often a healthy instance was shown as anything but passing; and how often it called the agent."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    agent = ConsulAgent(loop.time)
    line = Line(agent, chance)
    checker = virtual_checker()
    checker.gate("warm", ready=True)
    wrong = 0
    async with checker, Registration(checker, over(line), service="orders", address="127.0.0.1", port=8000):
        await asyncio.sleep(1.0)
        line.loss = loss
        ends = loop.time() + seconds
        while loop.time() < ends:
            await asyncio.sleep(0.1)
            wrong += agent.status(ORDERS) != "passing"
        line.loss = 0.0
    return wrong, len(agent.requests)


async def heartbeats(ttl: float, seconds: float) -> list[float]:
    """The seconds between the calls of a registration of which there is nothing to tell."""
    loop = asyncio.get_running_loop()
    agent = ConsulAgent(loop.time)
    times: list[float] = []
    answer = agent.answer

    def answering(method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        times.append(loop.time())
        return answer(method, target, headers, body)

    agent.answer = answering  # type: ignore[method-assign]
    checker = virtual_checker()
    checker.gate("warm", ready=True)
    registry = over(Line(agent, random.Random(0)), ttl)
    async with checker, Registration(checker, registry, service="orders", address="127.0.0.1", port=8000):
        await asyncio.sleep(seconds)
        del times[:2]  # The registration itself, which its first report follows at once.
        heard = list(times)
    return [after - before for before, after in pairwise(heard)]


async def herd(size: int) -> list[float]:
    """When each of so many instances is back, after an agent that was gone for a minute knows nothing any more."""
    loop = asyncio.get_running_loop()
    agent, chance = ConsulAgent(loop.time), random.Random(0)
    line = Line(agent, chance)
    back: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        for number in range(size):
            checker = virtual_checker()
            checker.gate(f"warm-{number}", ready=True)
            await stack.enter_async_context(checker)
            where: dict[str, Any] = {"service": "orders", "address": "127.0.0.1", "port": number + 1}
            await stack.enter_async_context(Registration(checker, over(line), **where))
        await asyncio.sleep(10.0)
        assert len(agent.services) == size
        line.is_cut = True
        await asyncio.sleep(60.0)
        agent.wipe()
        line.is_cut = False
        repaired = loop.time()
        while len(back) < size and loop.time() < repaired + 60:
            await asyncio.sleep(0.05)
            back |= {service: loop.time() - repaired for service in agent.services if service not in back}
    return sorted(back.values())
