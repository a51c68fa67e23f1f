"""Redis and Valkey, with the settings of the client of redis-py or valkey-py that the application holds."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, is_async, require_shares
from otel_health.compose import threshold

_EXPIRES_SECONDS: Final = 60
_NO_RETRIES: Final[Mapping[str, object]] = {"retry": None, "retry_on_timeout": False, "retry_on_error": []}


class Pool(Protocol):
    """What is used of a `redis.ConnectionPool`."""

    @property
    def connection_class(self) -> Callable[..., Any]: ...
    @property
    def connection_kwargs(self) -> Mapping[str, Any]: ...


class Client(Protocol):
    """What is used of a `redis.Redis`, synchronous or asynchronous."""

    @property
    def connection_pool(self) -> Any: ...


def answers(client: Client) -> CheckFunc:
    """Return a check that Redis answers a `PING`.

    It proves that the server takes a new connection, knows us, and answers. It does not prove that it takes writes.

    It opens a connection with the client's settings and closes it: the client's own connections would retry, with
    pauses, until the deadline hides why, and may be exhausted or long authenticated. Cost: a connection and a command.
    Every 10 s is fine.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("redis", redis.answers(client))
    """

    def conclude(replies: list[object]) -> None:
        if _text(replies[0]) != "PONG":
            raise Failed("it did not answer PONG")

    return _asking("redis.answers", client, [("PING",)], conclude)


def writable(client: Client, *, key: str = "otel_health") -> CheckFunc:
    """Return a check that Redis takes a write, and gives it back.

    It fails with `ReadOnlyError` on a replica, with `MovedError` (valkey-py: `ResponseError`) on a node of a cluster
    that the key does not belong to, and with other errors where there is no memory or disk left. It opens a connection,
    as `answers` does. Cost: a connection and two commands; a key of some 40 bytes that expires after 60 s. Every 10 s
    is fine.

    Args:
        client: The client that the application uses.
        key: What the name of the key begins with; a process appends what makes it unique.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("redis", redis.writable(client, key="orders:health"))
    """
    own = f"{key}:{os.urandom(8).hex()}"
    token = own[-16:]

    def conclude(replies: list[object]) -> None:
        if _text(replies[1]) != token:
            raise Failed("what was written could not be read back")

    commands = [("SET", own, token, "EX", str(_EXPIRES_SECONDS)), ("GET", own)]
    return _asking("redis.writable", client, commands, conclude)


def replication_lag(replica: Client, *, warn: float, fail: float | None = None) -> CheckFunc:
    """Return a check that a replica hears from its primary; observes `silent_seconds`.

    A primary says something every 10 s even if there is nothing to say (`repl-ping-replica-period`), so limits below
    that make no sense. A replica whose link is down fails, and so does a server that is no replica. Cost: a
    connection and an `INFO`. Every 10 s is fine.

    Args:
        replica: A client of the replica.
        warn: Seconds of silence from which it warns.
        fail: Seconds of silence from which it fails; never, if you do not say.

    Raises:
        TypeError: It is no such client.
        ValueError: The limits make no sense.

    Example:
        >>> checker.add("redis-replica", redis.replication_lag(replica, warn=15, fail=60), critical=False)
    """

    def conclude(replies: list[object]) -> float:
        replication = _fields(replies[0])
        if replication.get("role") != "slave":
            raise Failed("this server is no replica")
        if replication.get("master_link_status") != "up":
            raise Failed("the replica has lost its primary")
        return float(replication["master_last_io_seconds_ago"])

    measure = _asking("redis.replication_lag", replica, [("INFO", "replication")], conclude)
    return threshold(measure, warn=warn, fail=fail, observation="silent_seconds")


def cluster_state(client: Client) -> CheckFunc:
    """Return a check that a Redis Cluster serves all its slots, as the asked node sees it.

    It fails while any slot is without a node, or while the node is in the minority of a split. Cost: a connection and
    a `CLUSTER INFO`. Every 10 s is fine.

    Args:
        client: A plain client of one node; a `RedisCluster` gives one by `get_redis_connection(node)`.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("redis-cluster", redis.cluster_state(node))
    """

    def conclude(replies: list[object]) -> None:
        if _fields(replies[0]).get("cluster_state") != "ok":
            raise Failed("the cluster is down: a slot has no node, or this node sees no majority")

    return _asking("redis.cluster_state", client, [("CLUSTER", "INFO")], conclude)


def sentinel_quorum(sentinel: Client, *, service: str) -> CheckFunc:
    """Return a check that a Sentinel knows a primary that is up, and enough Sentinels to fail it over.

    Cost: a connection and a `SENTINEL CKQUORUM`. Every 10 s is fine.

    Args:
        sentinel: A plain client of one Sentinel: an element of `Sentinel.sentinels`.
        service: The name under which the Sentinels watch the primary.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("sentinel", redis.sentinel_quorum(sentinel.sentinels[0], service="orders"))
    """

    def conclude(replies: list[object]) -> None:
        flags = _pairs(replies[1])["flags"].split(",")
        if "s_down" in flags or "o_down" in flags:
            raise Failed("the primary is down")

    commands = [("SENTINEL", "CKQUORUM", service), ("SENTINEL", "MASTER", service)]
    return _asking("redis.sentinel_quorum", sentinel, commands, conclude)


def pool_use(client: Client, *, warn: float = 0.9) -> CheckFunc:
    """Return a check that the client's pool has connections to spare; observes `pool_use`, and never fails.

    `pool_use` is the share of `max_connections` that is in use. It asks the pool, not the server. Cost: none.
    Every 5 to 10 s is fine.

    Args:
        client: The client that the application uses, with a pool that has a limit worth the name: a
            `BlockingConnectionPool`, or one with `max_connections`.
        warn: The share from which it warns.

    Raises:
        TypeError: It is no such client, or its pool does not count (redis-py before 7.2, valkey-py).
        ValueError: `warn` is no share.

    Example:
        >>> checker.add("redis-pool", redis.pool_use(client), critical=False)
    """
    require_shares("redis.pool_use", most=10, warn=warn)
    _require_client("redis.pool_use", client)
    if not hasattr(client.connection_pool, "get_connection_count"):
        raise TypeError(
            f"redis.pool_use: a {type(client.connection_pool).__name__} of this version does not count its "
            "connections; install a newer redis-py, or leave this check out"
        )

    async def measure() -> float:
        pool = client.connection_pool
        # The idle ones come first, the ones in use second.
        in_use: int = pool.get_connection_count()[1][0]
        limit: int = pool.max_connections
        return in_use / max(limit, 1)

    return threshold(measure, warn=warn, observation="pool_use")


def _asking(
    subject: str, client: Client, commands: Sequence[tuple[str, ...]], conclude: Callable[[list[object]], Any]
) -> Callable[[], Any]:
    """Return a function, sync or async as the client is, that concludes from the replies to these commands."""
    _require_client(subject, client)

    def ask() -> Any:
        replies = []
        connection = _without_retries(client.connection_pool)
        try:
            connection.connect()
            for command in commands:
                connection.send_command(*command)
                replies.append(connection.read_response())
        finally:
            connection.disconnect()
        return conclude(replies)

    async def ask_async() -> Any:
        replies = []
        connection = _without_retries(client.connection_pool)
        try:
            await connection.connect()
            for command in commands:
                await connection.send_command(*command)
                replies.append(await connection.read_response())
        finally:
            await connection.disconnect(nowait=True)
        return conclude(replies)

    return ask_async if is_async(client.connection_pool.disconnect) else ask


def _without_retries(pool: Pool) -> Any:
    return pool.connection_class(**{**pool.connection_kwargs, **_NO_RETRIES})


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)


def _fields(reply: object) -> dict[str, str]:
    """Return what an `INFO` says, line by line."""
    return dict(line.split(":", 1) for line in _text(reply).splitlines() if ":" in line)


def _pairs(reply: Any) -> dict[str, str]:
    """Return a map as RESP 3 (a mapping) or RESP 2 (names and values in turn) gives it."""
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _require_client(subject: str, client: object) -> None:
    if not hasattr(getattr(client, "connection_pool", None), "connection_class"):
        raise TypeError(
            f"{subject}: {type(client).__name__} is no client with a connection pool; pass the Redis or Valkey client "
            "that the application holds, or that of a cluster to otel_health.checks.redis_cluster"
        )
