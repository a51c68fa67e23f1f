"""Redis beyond what every server is put to: refusals, replicas, clusters, Sentinels, full pools."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from typing import Any

import pytest
import redis as client_library

from otel_health import Checker
from otel_health.checks import redis
from otel_health.testing import assert_statuses
from tests.checks.clients import redis_async, redis_sync, valkey_async, valkey_sync
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, free_port, own_redis, own_sentinel

both_libraries = pytest.mark.parametrize("opened", [redis_async, valkey_sync])
clients = pytest.mark.parametrize("opened", [redis_async, redis_sync, valkey_async, valkey_sync])


@contextmanager
def administering(server: OwnServer) -> Iterator[Any]:
    """A connection to a server, as an administrator would have."""
    with client_library.Redis(host="127.0.0.1", port=server.port) as administrator:
        yield administrator


@pytest.mark.parametrize("make", [redis.answers, redis.writable, redis.cluster_state, redis.pool_use])
def test_what_is_no_client_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no client") as caught:
        make("redis://:s3cret@db")

    assert "s3cret" not in str(caught.value)


@clients
async def test_a_password_that_is_wrong_is_told_by_its_error(servers: Started, opened: Any) -> None:
    """Whoever is refused can tell from the error type; the password is not in the message."""
    async with opened(servers("redis").port, username="orders", password="s3cret") as client:
        result = await result_of(redis.answers(client))

    assert (result.status, result.refined_error_type) == ("fail", "AuthenticationError")
    assert "s3cret" not in str(result)


@clients
async def test_a_server_out_of_connections_fails(servers: Started, opened: Any) -> None:
    """A new connection is refused, whatever the client holds already."""
    server = servers("redis")
    with administering(server) as administrator:
        async with opened(server.port) as client:
            assert (await result_of(redis.answers(client))).status == "pass"
            administrator.config_set("maxclients", 1)
            try:
                result = await result_of(redis.answers(client))
            finally:
                administrator.config_set("maxclients", 100)

    assert result.status == "fail"
    assert result.refined_error_type in {"MaxConnectionsError", "ConnectionError", "ResponseError"}


@clients
async def test_a_server_out_of_memory_answers_but_takes_no_writes(servers: Started, opened: Any) -> None:
    """`writable` tells, `answers` does not."""
    server = servers("redis")
    with administering(server) as administrator:
        administrator.config_set("maxmemory", 1)
        try:
            async with opened(server.port) as client:
                refusal = await result_of(redis.writable(client))
                assert (await result_of(redis.answers(client))).status == "pass"
        finally:
            administrator.config_set("maxmemory", 0)

    assert (refusal.status, refusal.refined_error_type) in {("fail", "OutOfMemoryError"), ("fail", "ResponseError")}


@clients
async def test_what_is_written_expires_and_is_of_one_key(servers: Started, opened: Any) -> None:
    """A hundred runs leave one key, which begins as it was told to and goes away by itself."""
    server = servers("redis")
    with administering(server) as administrator:
        administrator.flushall()
        async with opened(server.port) as client:
            check = redis.writable(client, key="orders:health")
            for _ in range(100):
                assert (await result_of(check)).status == "pass"

        (key,) = administrator.keys()
        assert key.startswith(b"orders:health:")
        assert 0 < administrator.ttl(key) <= 60


@clients
async def test_a_replica_takes_no_writes_and_tells_how_silent_its_primary_is(servers: Started, opened: Any) -> None:
    """Read-only is noticed; the replica hears of its primary until that is gone; a primary has none."""
    with own_redis("--repl-diskless-sync-delay", "0") as primary, administering(servers("redis")) as administrator:
        administrator.replicaof("127.0.0.1", str(primary.port))
        try:
            async with opened(servers("redis").port) as replica, opened(primary.port) as leader:
                check = redis.replication_lag(replica, warn=30)
                await eventually(lambda: administrator.info("replication")["master_link_status"] == "up")

                passed = await result_of(check)
                assert passed.status == "pass"
                assert 0 <= passed.observations["silent_seconds"] < 30
                assert (await result_of(redis.writable(replica))).refined_error_type == "ReadOnlyError"
                assert (await result_of(redis.replication_lag(leader, warn=30))).message == "this server is no replica"

                primary.kill()
                await eventually(lambda: administrator.info("replication")["master_link_status"] == "down")
                assert (await result_of(check)).message == "the replica has lost its primary"
        finally:
            administrator.replicaof("NO", "ONE")


@both_libraries
async def test_a_cluster_that_lost_a_slot_is_down(opened: Any) -> None:
    """All slots served: up. One without a node: down, and a key of it has moved."""
    with own_node(free_port()) as node, administering(node) as administrator:
        async with opened(node.port) as client:
            check = redis.cluster_state(client)
            assert (await result_of(check)).status == "fail"
            administrator.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await eventually(lambda: b"cluster_state:ok" in raw(administrator, "CLUSTER", "INFO"))

            assert (await result_of(check)).status == "pass"
            assert (await result_of(redis.writable(client))).status == "pass"

            administrator.execute_command("CLUSTER", "DELSLOTS", 5)
            await eventually(lambda: b"cluster_state:fail" in raw(administrator, "CLUSTER", "INFO"))
            assert (await result_of(check)).status == "fail"
            assert (await result_of(redis.writable(client))).refined_error_type in {"ClusterDownError", "ResponseError"}


def own_node(bus: int) -> AbstractContextManager[OwnServer]:
    """A node of a cluster; `bus` is where it talks to the others."""
    return own_redis("--cluster-enabled", "yes", "--cluster-port", str(bus))


def raw(administrator: Any, *command: str) -> bytes:
    """What the server answers, as it is."""
    connection = administrator.connection_pool.get_connection()
    try:
        connection.send_command(*command)
        return bytes(connection.read_response())
    finally:
        administrator.connection_pool.release(connection)


@both_libraries
async def test_a_key_that_has_moved_is_noticed(opened: Any) -> None:
    """Half of the slots belong to another node: keys of those fail with `MovedError`, the others pass."""
    bus = free_port()
    with own_node(free_port()) as node, own_node(bus) as other:
        with administering(node) as one, administering(other) as two:
            one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
            two.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
            one.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
            await eventually(lambda: b"cluster_state:ok" in raw(one, "CLUSTER", "INFO"), 20.0)
        async with opened(node.port) as client:
            # The hash tags of these keys are in the lower and in the upper half.
            assert (await result_of(redis.writable(client, key="{bar}"))).status == "pass"
            moved = await result_of(redis.writable(client, key="{foo}"))
            assert moved.refined_error_type == ("MovedError" if opened is redis_async else "ResponseError")


@both_libraries
async def test_a_sentinel_tells_of_its_primary(opened: Any) -> None:
    """It passes while the primary is up, fails once the Sentinel has seen it go, and fails without a quorum."""
    with own_redis() as primary, own_sentinel(primary) as sentinel, administering(sentinel) as administrator:
        administrator.execute_command("SENTINEL", "SET", "orders", "down-after-milliseconds", 200)
        async with opened(sentinel.port) as client:
            check = redis.sentinel_quorum(client, service="orders")
            assert (await result_of(check)).status == "pass"
            unknown = await result_of(redis.sentinel_quorum(client, service="payments"))
            assert (unknown.status, unknown.refined_error_type) == ("fail", "ResponseError")

            administrator.execute_command("SENTINEL", "SET", "orders", "quorum", 2)
            assert (await result_of(check)).refined_error_type == "ResponseError"

            administrator.execute_command("SENTINEL", "SET", "orders", "quorum", 1)
            primary.kill()
            assert (await becomes("fail", check)).message == "the primary is down"


@pytest.mark.parametrize("opened", [redis_async, redis_sync])
async def test_a_full_pool_warns_and_condemns_nothing(servers: Started, opened: Any) -> None:
    """Both connections are taken: `pool_use` warns, and the server is asked beside the pool."""
    checker = Checker(timeout=2.0)
    async with opened(servers("redis").port, max_connections=2) as client, AsyncExitStack() as stack:
        checker.add("pool", redis.pool_use(client))
        checker.add("server", redis.answers(client))
        assert (await result_of(redis.pool_use(client))).observations == {"pool_use": 0.0}
        for _ in range(2):
            await take(stack, client.connection_pool)

        assert_statuses(await checker.run(), {"pool": "warn", "server": "pass"})


async def take(stack: AsyncExitStack, pool: Any) -> None:
    """Take a connection of this pool until the stack is unwound."""
    connection = pool.get_connection()
    if hasattr(connection, "__await__"):
        connection = await connection
        stack.push_async_callback(pool.release, connection)
    else:
        stack.callback(pool.release, connection)


@pytest.mark.parametrize("opened", [valkey_async, valkey_sync])
async def test_a_pool_that_does_not_count_is_refused(opened: Any) -> None:
    """The refusal says what to do."""
    async with opened(1) as client:
        with pytest.raises(TypeError, match="leave this check out"):
            redis.pool_use(client)
