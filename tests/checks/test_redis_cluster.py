"""Redis Cluster: three real nodes, of which one is full, frozen, killed, or gives its slots away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import redis as client_library
import redis.asyncio.cluster
import redis.cluster
import valkey.asyncio.cluster
import valkey.cluster

from otel_health.checks import redis_cluster
from tests.checks.held import connections
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, free_port, own_redis

NODE_TIMEOUT_MILLIS = "500"
SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))

Opened = Callable[[int], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def redis_sync(port: int, **options: Any) -> AsyncIterator[Any]:
    """A synchronous client of redis-py."""
    client = redis.cluster.RedisCluster(host="127.0.0.1", port=port, **options)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def redis_async(port: int, **options: Any) -> AsyncIterator[Any]:
    """An asynchronous client of redis-py, not used yet."""
    client = redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=port, **options)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def valkey_sync(port: int, **options: Any) -> AsyncIterator[Any]:
    """A synchronous client of valkey-py."""
    client: Any = valkey.cluster.ValkeyCluster(host="127.0.0.1", port=port, **options)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def valkey_async(port: int, **options: Any) -> AsyncIterator[Any]:
    """An asynchronous client of valkey-py, used before."""
    async with valkey.asyncio.cluster.ValkeyCluster(host="127.0.0.1", port=port, **options) as client:
        yield client


clients = pytest.mark.parametrize("opened", [redis_sync, redis_async, valkey_sync, valkey_async])


class Cluster:
    """Three nodes, each with a third of the slots and without a replica."""

    def __init__(self, stack: ExitStack) -> None:
        self.buses = [free_port() for _ in SLOTS]
        self.nodes: list[OwnServer] = []
        for bus in self.buses:
            timeout = ("--cluster-node-timeout", NODE_TIMEOUT_MILLIS)
            self.nodes.append(
                stack.enter_context(own_redis("--cluster-enabled", "yes", "--cluster-port", str(bus), *timeout))
            )
        self.administrators: list[Any] = [
            stack.enter_context(client_library.Redis(host="127.0.0.1", port=node.port)) for node in self.nodes
        ]

    async def form(self) -> None:
        """Have the nodes meet, and wait until each sees the whole."""
        for administrator, (first, last) in zip(self.administrators, SLOTS, strict=True):
            administrator.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, bus in zip(self.nodes[1:], self.buses[1:], strict=True):
            self.administrators[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        await eventually(self.is_well, 20.0)

    def is_well(self) -> bool:
        """Whether every node says so, and knows of every slot: it looks at its state only now and then."""
        told = [each.execute_command("CLUSTER", "INFO") for each in self.administrators]
        return all(b"cluster_state:ok" in each and b"cluster_slots_assigned:16384" in each for each in told)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster of the test's own."""
    with ExitStack() as stack:
        made = await asyncio.to_thread(Cluster, stack)
        await made.form()
        yield made


@pytest.fixture(scope="module")
def lasting() -> Iterator[Cluster]:
    """A cluster for those who leave it as it was."""
    with ExitStack() as stack:
        made = Cluster(stack)
        asyncio.run(made.form())
        yield made


@clients
async def test_a_cluster_that_is_well(lasting: Cluster, opened: Opened) -> None:
    """It passes; each primary gets one key, that expires, whatever the number of runs; no connection stays open."""
    for administrator in lasting.administrators:
        administrator.flushall()
    async with opened(lasting.nodes[0].port) as client:
        check = redis_cluster.writable(client, key="orders:health")
        for _ in range(20):
            assert (await result_of(check)).status == "pass"
        assert (await result_of(redis_cluster.answers(client))).status == "pass"

        for administrator in lasting.administrators:
            (key,) = administrator.execute_command("KEYS", "*")
            assert key.startswith(b"orders:health:")
            assert 0 < administrator.execute_command("TTL", key) <= 60
    await eventually(lambda: all(connections(node.port) <= 1 for node in lasting.nodes))


@clients
async def test_one_primary_that_is_full(lasting: Cluster, opened: Opened) -> None:
    """Whichever it is, it takes no writes, but answers."""
    full = lasting.administrators[2]
    full.execute_command("CONFIG", "SET", "maxmemory", "1")
    try:
        async with opened(lasting.nodes[0].port) as client:
            refused = await result_of(redis_cluster.writable(client))
            answering = await result_of(redis_cluster.answers(client))
    finally:
        full.execute_command("CONFIG", "SET", "maxmemory", "0")

    assert (refused.status, refused.refined_error_type) in {("fail", "OutOfMemoryError"), ("fail", "ResponseError")}
    assert answering.status == "pass"


@clients
async def test_a_slot_that_has_moved_is_asked_where_it_is_now(lasting: Cluster, opened: Opened) -> None:
    """A client that has not heard of it would be redirected; the check asks for the map."""
    giver, taker = lasting.administrators[:2]
    ids = [each.execute_command("CLUSTER", "MYID").decode() for each in (giver, taker)]

    def move(slot: int, to: str) -> None:
        for each in (taker, giver):
            each.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to)

    giver.flushall()
    async with opened(lasting.nodes[0].port) as client:
        check = redis_cluster.writable(client)
        assert (await result_of(check)).status == "pass"
        (key,) = giver.execute_command("KEYS", "*")
        slot = giver.execute_command("CLUSTER", "KEYSLOT", key)
        giver.flushall()
        move(slot, ids[1])
        try:
            assert (await result_of(check)).status == "pass"
        finally:
            taker.flushall()
            move(slot, ids[0])
        await becomes("pass", check)


async def test_a_password_that_is_wrong_is_told_by_its_error(lasting: Cluster) -> None:
    """Whoever is refused by one primary can tell from the error type; the password is not in the message."""
    guarded = lasting.administrators[1]
    async with redis_sync(lasting.nodes[0].port) as client:
        guarded.execute_command("CONFIG", "SET", "requirepass", "s3cret")
        try:
            result = await result_of(redis_cluster.answers(client))
        finally:
            guarded.execute_command("AUTH", "s3cret")
            guarded.execute_command("CONFIG", "SET", "requirepass", "")

    assert (result.status, result.refined_error_type) == ("fail", "AuthenticationError")
    assert "s3cret" not in str(result)


@clients
async def test_a_cluster_out_of_connections(lasting: Cluster, opened: Opened) -> None:
    """Each run opens its own, and is refused at every node; then it passes again."""
    async with opened(lasting.nodes[0].port) as client:
        check = redis_cluster.answers(client)
        await becomes("pass", check)
        for each in lasting.administrators:
            each.execute_command("CONFIG", "SET", "maxclients", "1")
        try:
            result = await result_of(check)
        finally:
            for each in lasting.administrators:
                each.execute_command("CONFIG", "SET", "maxclients", "100")

        assert result.status == "fail"
        assert result.refined_error_type not in {"timeout", "invalid_result"}
        await becomes("pass", check)


async def test_primaries_that_go_and_come_back(cluster: Cluster) -> None:
    """Killed, it is refused, and then the cluster itself says that it is down; so it does while one is frozen."""
    async with redis_sync(cluster.nodes[0].port) as blocking, redis_async(cluster.nodes[0].port) as asynchronous:
        checks = [redis_cluster.answers(client) for client in (blocking, asynchronous)]
        for check in checks:
            await becomes("pass", check)
            for victim in (cluster.nodes[0], cluster.nodes[2]):
                victim.pause()
                down = await says("the cluster is down", check)
                assert down.refined_error_type == "failed"
                victim.resume()
                await becomes("pass", check)
        cluster.nodes[0].kill()
        for check in checks:
            assert (await result_of(check)).refined_error_type in {"ConnectionError", "failed"}
            await says("the cluster is down", check)


async def says(message: str, check: Any) -> Any:
    """Run a check until its message begins so."""
    async with asyncio.timeout(30.0):
        while not ((result := await result_of(check, timeout=1.0)).message or "").startswith(message):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return result


async def test_a_cluster_without_all_its_slots(lasting: Cluster) -> None:
    """Even one that serves the rest all the same (`cluster-require-full-coverage no`)."""
    for each in lasting.administrators:
        each.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    try:
        async with redis_async(lasting.nodes[0].port) as client:
            # Again, where a node has heard of the slot meanwhile: its owner may have claimed it a moment before.
            await eventually(lambda: all(map(_has_given_up_a_slot, lasting.administrators)))
            assert (await result_of(redis_cluster.answers(client))).message == "1 slots have no node"
    finally:
        lasting.administrators[2].execute_command("CLUSTER", "ADDSLOTS", 16383)
        for each in lasting.administrators:
            each.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "yes")
        await eventually(lasting.is_well, 20.0)


def _has_given_up_a_slot(administrator: Any) -> bool:
    with suppress(client_library.ResponseError):  # It has done so before.
        administrator.execute_command("CLUSTER", "DELSLOTS", 16383)
        return False
    return True


@pytest.mark.parametrize("make", [redis_cluster.answers, redis_cluster.writable])
def test_what_is_no_cluster_client_is_refused_without_being_shown(make: Any) -> None:
    """A URL, and a client of one server, which another check is for."""
    with pytest.raises(TypeError, match="str is no client of a cluster") as caught:
        make("redis://:s3cret@db")
    with pytest.raises(TypeError, match=r"a client of one server to otel_health\.checks\.redis"):
        make(client_library.Redis())

    assert "s3cret" not in str(caught.value)


async def test_a_key_with_braces_is_refused(lasting: Cluster) -> None:
    """It would name one slot, and so one primary."""
    async with redis_sync(lasting.nodes[0].port) as client:
        with pytest.raises(ValueError, match="braces"):
            redis_cluster.writable(client, key="{orders}")
