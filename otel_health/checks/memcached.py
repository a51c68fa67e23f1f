"""Memcached, through the client of pymemcache that the application holds."""

from typing import Final, Protocol

from otel_health.check import CheckFunc, completes, is_async

_DIED: Final = {"MemcacheUnexpectedCloseError", "ConnectionResetError", "BrokenPipeError"}
"""What is raised for a connection that died since it was last used."""


class Client(Protocol):
    """What is used of a `pymemcache.PooledClient`."""

    def version(self) -> bytes: ...


def answers(client: Client) -> CheckFunc:
    """Return a check that Memcached answers, with its version.

    It proves that the server takes commands of this client, not that it keeps what it is given: a full cache forgets.
    Give it a `PooledClient` (or a client that nobody else uses: a plain one is not for two threads). Where keys are
    spread over several servers, register one check for each server: losing one loses a part. A client of aiomcache is
    refused: it takes no cancellation, and would give the late answer to whoever asks next.

    A connection that had died since the last run is replaced, once. Cost: one `version`. Every 10 s is fine.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("memcached", memcached.answers(client), critical=False)
    """
    if not hasattr(client, "version") or is_async(client.version):
        raise TypeError(
            f"memcached: {type(client).__name__} is no client of one server by pymemcache; pass a PooledClient, or "
            "for several servers one check for each"
        )

    def ask() -> None:
        try:
            client.version()
        except Exception as error:
            if type(error).__name__ not in _DIED:
                raise
            client.version()

    return completes(ask)
