"""Redis Cluster and Valkey Cluster, with the nodes and settings of the cluster client that the application holds."""

import os
from binascii import crc_hqx
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, is_async

Address = tuple[str, int]
Command = tuple[str, ...]
Asked = tuple[Address | None, Sequence[Command]]
"""A node, or whichever answers first, and what it is asked."""

Plan = Generator[Asked, tuple[Address, list[Any]], None]
"""Asks one node after the other; it is sent who has answered, and what."""

_SLOTS: Final = 16384
_EXPIRES_SECONDS: Final = 60
_NO_RETRIES: Final[Mapping[str, object]] = {"retry": None, "retry_on_timeout": False, "retry_on_error": []}


class Cluster(Protocol):
    """What is used of a `RedisCluster`, synchronous or asynchronous."""

    @property
    def nodes_manager(self) -> Any: ...
    def get_nodes(self) -> Sequence[Any]: ...


def answers(cluster: Cluster) -> CheckFunc:
    """Return a check that the cluster serves every slot, and that each of its primaries answers.

    Whichever of the client's nodes answers is asked for the cluster's map, so a failover that the client has not
    noticed yet fails nothing. It fails while a slot has no node, while a primary does not answer or refuses us, and
    where the node that is asked is in the minority of a split. It does not prove that writes are taken (`writable`).
    It opens connections with the client's settings, since the client's own would retry until the deadline hides why.
    Cost: a connection to each primary, and two to one of them. Every 10 s is fine.

    Raises:
        TypeError: It is no client of a cluster by redis-py or valkey-py.

    Example:
        >>> checker.add("redis", redis_cluster.answers(cluster))
    """

    def plan(seeds: _Seeds) -> Plan:
        for primary in dict.fromkeys((yield from _owners(seeds)).values()):
            _, (pong,) = yield primary, [("PING",)]
            if _text(pong) != "PONG":
                raise Failed("a primary did not answer PONG")

    return _asking("redis_cluster.answers", cluster, plan)


def writable(cluster: Cluster, *, key: str = "otel_health") -> CheckFunc:
    """Return a check that each primary of the cluster takes a write, and gives it back.

    It proves what `answers` does, and fails where a primary has no memory or disk left (`OutOfMemoryError`), or has
    just lost its slots to another (`MovedError`). Cost: as `answers`, and on each primary two commands and a key of
    some 50 bytes that expires after 60 s. Every 10 s is fine.

    Args:
        cluster: The client that the application uses.
        key: What the names of the keys begin with; a process appends what makes them unique.

    Raises:
        TypeError: It is no client of a cluster by redis-py or valkey-py.
        ValueError: The key has braces, and would belong to one slot.

    Example:
        >>> checker.add("redis", redis_cluster.writable(cluster, key="orders:health"))
    """
    if set(key) & set("{}"):
        raise ValueError(
            f"redis_cluster.writable: key={key!r} has braces, which give every key one slot; leave them out"
        )
    token = os.urandom(8).hex()

    def plan(seeds: _Seeds) -> Plan:
        for primary, own in _one_key_each((yield from _owners(seeds)), f"{key}:{token}"):
            commands = [("SET", own, token, "EX", str(_EXPIRES_SECONDS)), ("GET", own)]
            _, (_, kept) = yield primary, commands
            if _text(kept) != token:
                raise Failed("what was written could not be read back")

    return _asking("redis_cluster.writable", cluster, plan)


Owners = Mapping[range, Address]
"""Which primary has which slots."""


def _owners(seeds: "_Seeds") -> Generator[Asked, tuple[Address, list[Any]], Owners]:
    (host, _), (info, slots) = yield None, [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]
    if "cluster_state:ok" not in _text(info):
        raise Failed("the cluster is down: a slot has no node, or the node that was asked sees no majority")
    # A node that does not know its own address leaves it to whoever has reached it.
    owners = {
        range(first, last + 1): seeds.remapped((_text(primary[0] or b"") or host, primary[1]))
        for first, last, primary, *_ in slots
    }
    unserved = _SLOTS - sum(map(len, owners))
    if unserved:
        raise Failed(f"{unserved} slots have no node")
    seeds.learned = tuple(owners.values())
    return owners


def _one_key_each(owners: Owners, prefix: str) -> Iterator[tuple[Address, str]]:
    """Yield each primary with a key that belongs to it: always the same one."""
    missing = set(owners.values())
    for number in count():
        own = f"{prefix}:{number}"
        slot = crc_hqx(own.encode(), 0) % _SLOTS
        owner = next(address for slots, address in owners.items() if slot in slots)
        if owner in missing:
            missing.remove(owner)
            yield owner, own
        if not missing:
            return


def _asking(subject: str, cluster: Cluster, plan: "Callable[[_Seeds], Plan]") -> CheckFunc:
    """Return a function, sync or async as the client is, that asks what the plan asks."""
    if not hasattr(cluster, "nodes_manager") or not hasattr(cluster, "get_nodes"):
        raise TypeError(
            f"{subject}: {type(cluster).__name__} is no client of a cluster by redis-py or valkey-py; pass the "
            "RedisCluster that the application holds, and a client of one server to otel_health.checks.redis"
        )
    seeds = _Seeds(cluster)

    def ask() -> None:
        questions, answer = plan(seeds), None
        with suppress(StopIteration):
            while True:
                address, commands = questions.send(answer)  # type: ignore[arg-type]
                for chosen, last in seeds.of(address):
                    try:
                        answer = chosen, _exchange(seeds.connection(chosen), commands)
                    except Exception:
                        if last:
                            raise
                    else:
                        seeds.first = chosen if address is None else seeds.first
                        break

    async def ask_async() -> None:
        questions, answer = plan(seeds), None
        with suppress(StopIteration):
            while True:
                address, commands = questions.send(answer)  # type: ignore[arg-type]
                for chosen, last in seeds.of(address):
                    try:
                        answer = chosen, await _exchange_async(seeds.connection(chosen), commands)
                    except Exception:
                        if last:
                            raise
                    else:
                        seeds.first = chosen if address is None else seeds.first
                        break

    return ask_async if is_async(getattr(cluster, "initialize", ask)) else ask


class _Seeds:
    """The nodes that the client knows, and how it connects to any."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.first: Address | None = None
        """Which one to ask first."""
        self.learned: tuple[Address, ...] = ()
        """The primaries of the last map: an asynchronous client that nobody has used yet knows one node only."""

    def of(self, address: Address | None) -> Iterator[tuple[Address, bool]]:
        """Yield a node, or where it matters not which, one after the other; and whether it is the last."""
        if address is not None:
            yield address, True
            return
        known = list(dict.fromkeys([*((node.host, int(node.port)) for node in self._nodes()), *self.learned]))
        at = known.index(self.first) if self.first in known else 0
        known = known[at:] + known[:at]
        for number, node in enumerate(known, 1):
            # One that hangs takes the whole run; the next run begins with another.
            self.first = known[number % len(known)]
            yield node, number == len(known)

    def connection(self, address: Address) -> Any:
        """Return a connection to a node with the client's settings, not open yet."""
        node = self._nodes()[0]
        single = getattr(node, "redis_connection", None) or getattr(node, "valkey_connection", None)
        pool = single.connection_pool if single is not None else node
        host, port = address
        return pool.connection_class(**{**pool.connection_kwargs, **_NO_RETRIES, "host": host, "port": port})

    def remapped(self, address: Address) -> Address:
        """Return where a node is reached from here, as the client was told."""
        remap = getattr(self._cluster.nodes_manager, "address_remap", None)
        return remap(address) if remap is not None else address

    def _nodes(self) -> list[Any]:
        return [*self._cluster.get_nodes(), *self._cluster.nodes_manager.startup_nodes.values()]


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    try:
        connection.connect()
        replies = []
        for command in commands:
            connection.send_command(*command)
            replies.append(connection.read_response())
        return replies
    finally:
        connection.disconnect()


async def _exchange_async(connection: Any, commands: Sequence[Command]) -> list[Any]:
    try:
        await connection.connect()
        replies = []
        for command in commands:
            await connection.send_command(*command)
            replies.append(await connection.read_response())
        return replies
    finally:
        await connection.disconnect(nowait=True)


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
