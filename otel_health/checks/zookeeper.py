"""ZooKeeper, through the client of kazoo that the application holds."""

from typing import Protocol

from otel_health.check import CheckFunc, Failed, completes


class Client(Protocol):
    """What is used of a `kazoo.client.KazooClient`."""

    @property
    def connected(self) -> bool: ...
    def exists(self, path: str, /) -> object: ...


def answers(client: Client, *, path: str = "/") -> CheckFunc:
    """Return a check that the session with ZooKeeper lives, and that a server answers a read in it.

    A server answers reads only while it belongs to a quorum (or is in read-only mode, if the client allows that). It
    does not prove that a write would be agreed upon. While the client is reconnecting it fails at once, since a request
    would be kept until it has. Cost: one `exists`. Every 10 s is fine.

    Args:
        client: The client, started by the application.
        path: The node that is asked for; it need not exist.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("zookeeper", zookeeper.answers(client))
    """
    if not hasattr(client, "connected") or not hasattr(client, "exists"):
        raise TypeError(f"zookeeper: {type(client).__name__} is no client of kazoo; pass the KazooClient that you hold")

    def ask() -> None:
        if not client.connected:
            raise Failed("the client is not connected to any server")
        client.exists(path)

    return completes(ask)
