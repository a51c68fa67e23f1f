"""Consul beyond what every registry is put to: its words, its older versions, its tokens, its ghosts."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from otel_health import Checker, Status
from otel_health.registration import ConsulRegistry, Instance, NotRegistered, Refused, Registration, Standing
from otel_health.registration.json_api import JsonApi
from tests.doubles import eventually
from tests.registration.consul_agent import ConsulAgent, serving
from tests.registration.places import Place, place_of

ORDERS = Instance("orders", "orders-1", "10.0.0.7", 8000, ("v1",), {"zone": "b"})
PASS = Standing(Status.PASS)


@asynccontextmanager
async def registry_of(agent: ConsulAgent, **options: Any) -> AsyncIterator[ConsulRegistry]:
    """A registry at an agent that the test holds in its hands."""
    async with serving(agent) as port:
        yield ConsulRegistry(f"http://127.0.0.1:{port}", **options)


@pytest.fixture
async def consul() -> AsyncIterator[Place]:
    """A place in Consul: a real one where there is one."""
    async with place_of("consul") as place:
        yield place


@pytest.mark.parametrize(("status", "code"), [(Status.PASS, 200), (Status.WARN, 429), (Status.FAIL, 503)])
async def test_a_warning_is_a_warning_to_consuls_own_readers(consul: Place, status: Status, code: int) -> None:
    """What asks the agent how a service is gets 200, 429 or 503, as Consul has it."""
    registry = consul.registry()
    instance = Instance(consul.service, f"{consul.service}-1", "127.0.0.1", 8000)
    agent = JsonApi("consul", [f"http://127.0.0.1:{consul.port}"], {}, None)

    await registry.register(instance, Standing(status))

    assert (await agent.ask("GET", f"/v1/agent/health/service/id/{instance.id}")).status == code
    await registry.withdraw(instance)
    assert (await agent.ask("GET", f"/v1/agent/health/service/id/{instance.id}")).status == 404
    await registry.withdraw(instance)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_readers_who_ask_at_once_are_each_given_what_they_asked_for(host: str) -> None:
    """Outside a check too, where nobody else keeps their calls apart."""
    services = ["orders", "payments", "users"]
    async with serving(ConsulAgent(monotonic)) as port:
        registry = ConsulRegistry(f"http://{host}:{port}")
        for service in services:
            await registry.register(Instance(service, f"{service}-1", "10.0.0.7", 8000), PASS)

        found = await asyncio.gather(*map(registry.members, services))

    assert [[member.instance.service for member in members] for members in found] == [[each] for each in services]


async def test_another_address_of_the_name_is_asked_where_the_first_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It accepts every connection, so that nothing but its silence says that it is frozen."""
    resolver = socket.getaddrinfo

    def two(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "localhost":
            return resolver(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    agent = ConsulAgent(monotonic)
    async with serving(agent) as port:
        with socket.create_server(("127.0.0.2", port)):
            registry, checker = ConsulRegistry(f"http://localhost:{port}"), Checker()
            registration = Registration(checker, registry, service="orders", address="127.0.0.1", port=8000)
            async with checker, registration:
                await eventually(lambda: registration.is_registered)
                assert agent.status("orders-127.0.0.1-8000") == "passing"
    assert agent.services == {}


@pytest.mark.parametrize("code", [404, 500, 400, 503, 429])
async def test_whatever_is_answered_to_an_unknown_check_has_it_registered_again(code: int) -> None:
    """Older versions of Consul answer 500, newer ones 404: a heartbeat that is refused never is the last one."""
    agent = ConsulAgent(monotonic, unknown_check=code)
    async with (
        registry_of(agent, ttl=0.6) as registry,
        Checker() as checker,
        Registration(checker, registry, service="orders", address="127.0.0.1", port=8000),
    ):
        await eventually(lambda: agent.status("orders-127.0.0.1-8000") == "passing")
        agent.wipe()
        await eventually(lambda: agent.status("orders-127.0.0.1-8000") == "passing")
    assert agent.services == {}


async def test_a_renewal_of_what_is_unknown_says_so() -> None:
    """Whoever brings the state machine of another makes learns it from the error."""
    async with registry_of(ConsulAgent(monotonic)) as registry:
        with pytest.raises(NotRegistered, match="Consul answered with status 404"):
            await registry.renew(ORDERS, PASS)


async def test_the_token_is_sent_and_never_said(caplog: pytest.LogCaptureFixture) -> None:
    """With it the agent takes us; without, the log says what is missing, and repeats no secret."""
    caplog.set_level(logging.DEBUG)
    agent = ConsulAgent(monotonic, token="b1gs3cret")
    async with registry_of(agent, token="b1gs3cret") as registry:
        await registry.register(ORDERS, PASS)
        assert [member.instance for member in await registry.members("orders")] == [ORDERS]
        assert "b1gs3cret" not in f"{registry!r} {vars(registry)['_api']!r}"
    checker = Checker()
    async with registry_of(agent, token="wr0ng", ttl=0.6) as registry, checker:
        async with Registration(checker, registry, service="orders", address="10.0.0.8", port=8000, timeout=0.3):
            await eventually(lambda: "cannot be registered" in caplog.text)
        with pytest.raises(Refused, match="the token may not do this"):
            await registry.members("orders")

    assert "status 403: the token may not do this, or there is none" in caplog.text
    assert "wr0ng" not in caplog.text


async def test_a_crash_leaves_a_ghost_only_until_consul_sweeps_it() -> None:
    """Nobody says goodbye: critical after the TTL, no member that is fresh, and a minute later nobody at all."""
    now = [0.0]
    agent = ConsulAgent(lambda: now[0])
    async with registry_of(agent, ttl=15.0, deregister_after=60.0) as registry:
        await registry.register(ORDERS, Standing(Status.WARN, "postgres: slow"))
        now[0] = 15.0
        (ghost,) = await registry.members("orders")
        assert (ghost.fresh, ghost.standing.status) == (False, Status.FAIL)
        now[0] = 76.0
        assert await registry.members("orders") == []


async def test_maintenance_is_there_from_the_first_moment() -> None:
    """An instance in maintenance that is registered anew is nobody's target in between."""
    agent = ConsulAgent(monotonic)
    async with registry_of(agent) as registry:
        answer, seen = agent.answer, []

        def watching(*asked: Any) -> Any:
            answered = answer(*asked)
            seen.append(agent.status(ORDERS.id))
            return answered

        agent.answer = watching  # type: ignore[method-assign, assignment]
        await registry.register(ORDERS, Standing(Status.PASS, maintenance="disk"))

    assert seen == [None, "critical", "critical", "critical"]


async def test_news_of_a_dependency_ends_no_maintenance(consul: Place) -> None:
    """It is told with the service itself, which is registered again for it, and with its checks as they are."""
    registry = consul.registry()
    instance = Instance(consul.service, f"{consul.service}-1", "127.0.0.1", 8000)
    await registry.register(instance, Standing(Status.PASS, maintenance="disk"))

    await registry.renew(instance, Standing(Status.WARN, "slow", "disk", {"postgres": Status.FAIL}))
    (member,) = await consul.members()
    await registry.withdraw(instance)

    assert member.standing == Standing(Status.WARN, "slow", "disk", {"postgres": Status.FAIL})


async def test_an_answer_that_is_no_consuls_is_refused() -> None:
    """Whatever listens there, it is an error with a name, and no crash."""
    agent = ConsulAgent(monotonic)
    agent.answer = lambda *_: (200, {"hello": "world"})  # type: ignore[method-assign]
    async with registry_of(agent) as registry:
        with pytest.raises(Refused, match="Consul answered with status 200"):
            await registry.members("orders")
