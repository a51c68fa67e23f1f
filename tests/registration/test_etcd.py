"""etcd beyond what every registry is put to: leases that seem to live, keys that others touch, several addresses."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest

from otel_health import Checker, Status
from otel_health.registration import EtcdRegistry, Instance, NotRegistered, Refused, Standing
from otel_health.registration.json_api import JsonApi, Spoken
from tests.doubles import eventually
from tests.registration.places import Place, place_of
from tests.servers import free_port

PASS, FAIL = Standing(Status.PASS), Standing(Status.FAIL, "postgres: failed")


@pytest.fixture
async def etcd() -> AsyncIterator[Place]:
    """A place in etcd."""
    async with place_of("etcd") as place:
        yield place


class Etcd:
    """etcd, as an operator sees it."""

    def __init__(self, place: Place) -> None:
        self._api = JsonApi("etcd", [f"http://127.0.0.1:{place.port}"], {}, None)

    async def ask(self, path: str, body: object) -> Any:
        """Ask for whatever there is."""
        return (await self._api.ask("POST", f"/v3{path}", body)).body

    async def entry(self, key: str) -> Any:
        """The entry of a key, None where there is none."""
        found = await self.ask("/kv/range", {"key": b64encode(key.encode()).decode()})
        return found["kvs"][0] if "kvs" in found else None


def instance_of(place: Place) -> Instance:
    """The instance that these tests register."""
    return Instance(place.service, "1", "127.0.0.1", 8000)


async def test_the_value_says_what_readers_want_to_know(etcd: Place) -> None:
    """Documented, and so kept: one JSON object."""
    registry = etcd.registry(prefix="/somewhere/")
    instance = Instance(etcd.service, "1", "10.0.0.7", 8000, ("v1",), {"zone": "b"})

    await registry.register(instance, Standing(Status.WARN, "postgres: slow", "disk", {"postgres": Status.FAIL}))

    entry = await Etcd(etcd).entry(f"/somewhere/{etcd.service}/1")
    assert json.loads(b64decode(entry["value"])) == {
        "service": etcd.service,
        "id": "1",
        "address": "10.0.0.7",
        "port": 8000,
        "tags": ["v1"],
        "meta": {"zone": "b"},
        "status": "warn",
        "output": "postgres: slow",
        "maintenance": "disk",
        "dependencies": {"postgres": "fail"},
    }
    (member,) = await registry.members(etcd.service)
    assert (member.instance, member.standing.dependencies) == (instance, {"postgres": "fail"})
    await registry.withdraw(instance)


async def test_a_renewal_without_news_writes_nothing(etcd: Place) -> None:
    """Whoever watches the keys is woken by changes alone."""
    registry, instance = etcd.registry(), instance_of(etcd)
    await registry.register(instance, PASS)
    written = await Etcd(etcd).entry(f"/services/{etcd.service}/1")

    await registry.renew(instance, PASS)
    assert await Etcd(etcd).entry(f"/services/{etcd.service}/1") == written
    await registry.renew(instance, FAIL)

    assert (await Etcd(etcd).entry(f"/services/{etcd.service}/1"))["mod_revision"] != written["mod_revision"]
    await registry.withdraw(instance)


async def test_a_key_that_somebody_deleted_or_changed_is_put_right(etcd: Place) -> None:
    """The lease lives, so the keepalive would notice nothing."""
    key = b64encode(f"/services/{etcd.service}/1".encode()).decode()
    registry, instance = etcd.registry(), instance_of(etcd)
    await registry.register(instance, PASS)
    for path, body in (("/kv/deleterange", {"key": key}), ("/kv/put", {"key": key, "value": "e30="})):
        await Etcd(etcd).ask(path, body)
        assert await etcd.members() == []

        await registry.renew(instance, PASS)

        assert await etcd.statuses() == ["pass"]
    await registry.withdraw(instance)
    assert await etcd.members() == []


async def test_a_keepalive_without_a_ttl_is_a_lost_lease(etcd: Place) -> None:
    """etcd 3.4 answers 200 to the keepalive of a lease that has ended: only the TTL is missing."""
    registry, instance = etcd.registry(), instance_of(etcd)
    with pytest.raises(NotRegistered, match="there is no lease"):
        await registry.renew(instance, PASS)
    await registry.register(instance, PASS)
    entry = await Etcd(etcd).entry(f"/services/{etcd.service}/1")
    await Etcd(etcd).ask("/lease/revoke", {"ID": entry["lease"]})

    with pytest.raises(NotRegistered, match="the lease has ended"):
        await registry.renew(instance, PASS)

    await registry.register(instance, PASS)
    assert await etcd.statuses() == ["pass"]
    await registry.withdraw(instance)


async def test_registering_again_prolongs_the_lease_that_is_held(etcd: Place) -> None:
    """Or what was just registered would be gone in a moment."""
    registry, instance = etcd.registry(ttl=60), instance_of(etcd)
    await registry.register(instance, PASS)
    entry = await Etcd(etcd).entry(f"/services/{etcd.service}/1")

    async def left() -> int:
        return int((await Etcd(etcd).ask("/lease/timetolive", {"ID": entry["lease"]}))["TTL"])

    await asyncio.sleep(1.5)
    before = await left()

    await registry.register(instance, PASS)

    assert await left() > before
    await registry.withdraw(instance)


async def test_a_lease_that_ends_between_keepalive_and_key_is_noticed(etcd: Place) -> None:
    """A key that could not be put is none."""
    registry, instance = etcd.registry(), instance_of(etcd)
    await registry.register(instance, PASS)
    ask = registry._api.ask  # noqa: SLF001 - the lease ends between the two requests of a renewal.

    async def ending(method: str, path: str, body: Any) -> Spoken:
        spoken: Spoken = await ask(method, path, body)
        if path == "/v3/lease/keepalive":
            await Etcd(etcd).ask("/lease/revoke", body)
        return spoken

    registry._api.ask = ending  # noqa: SLF001 - as above.
    with pytest.raises(NotRegistered, match="etcd does not know the lease"):
        await registry.renew(instance, PASS)


async def test_a_withdrawal_leaves_what_a_successor_has_registered(etcd: Place) -> None:
    """The same id, started again elsewhere before this one has gone: its entry stays."""
    old, new, instance = etcd.registry(), etcd.registry(), instance_of(etcd)
    await old.register(instance, PASS)
    await new.register(instance, PASS)

    await old.withdraw(instance)

    assert await etcd.statuses() == ["pass"]
    await new.withdraw(instance)
    assert await etcd.members() == []


async def test_another_member_of_the_cluster_is_asked_where_one_does_not_answer(etcd: Place) -> None:
    """One of two addresses is nobody's: the second attempt succeeds."""
    registry = EtcdRegistry(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{etcd.port}", ttl=2)
    checker = Checker()
    registration = etcd.registration(checker, registry)
    async with checker, registration:
        await eventually(lambda: registration.is_registered)
        assert await etcd.statuses() == ["pass"]


async def test_what_is_under_the_prefix_and_none_of_ours_is_passed_over(etcd: Place) -> None:
    """Other people's keys, and a service whose name begins with this one's, are no members."""
    registry, instance = etcd.registry(), instance_of(etcd)
    await registry.register(instance, PASS)
    others = (f"/services/{etcd.service}/x", "hello"), (f"/services/{etcd.service}-more/y", "{}")
    for key, value in others:
        raw = {"key": b64encode(key.encode()).decode(), "value": b64encode(value.encode()).decode()}
        await Etcd(etcd).ask("/kv/put", raw)

    assert [member.instance.id for member in await registry.members(etcd.service)] == ["1"]

    for key, _ in others:
        await Etcd(etcd).ask("/kv/deleterange", {"key": b64encode(key.encode()).decode()})
    await registry.withdraw(instance)


async def test_what_is_not_etcd_is_refused() -> None:
    """Whatever listens there, it is an error with a name, and no crash."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        with pytest.raises(Refused, match="etcd answered with status 200"):
            await EtcdRegistry(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}").members("orders")
    finally:
        server.close()
