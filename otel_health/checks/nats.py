"""NATS and JetStream, through the connection of nats-py that the application holds."""

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed
from otel_health.compose import threshold

_FOREVER: Final = 3600.0
"""Seconds: nats-py wants a timeout, and the deadline is the check's own."""

_NOBODY: Final = "NoRespondersError"


class Client(Protocol):
    """What is used of a `nats.aio.client.Client`."""

    @property
    def is_connected(self) -> bool: ...
    def request(self, subject: str, /, *, timeout: float) -> Awaitable[Any]: ...
    def jetstream(self) -> Any: ...


def answers(client: Client, *, subject: str = "otel_health") -> CheckFunc:
    """Return a check that the NATS server answers on this connection.

    It sends a request to a subject on which nobody listens, and the server says so. It asks for no flush: one that
    is given up at a deadline stops nats-py from reading ever again, and this check tells of that too. While the client
    is reconnecting it fails at once. It proves nothing of JetStream (`pending`). Cost: a request. Every 10 s is fine.

    Args:
        client: What `nats.connect` returned.
        subject: Where the request goes: one that this user may publish to. A reply is as good as none.

    Raises:
        TypeError: It is no such connection.

    Example:
        >>> checker.add("nats", nats.answers(connection))
    """
    _require_client("nats.answers", client)

    async def check() -> None:
        _require_connected(client)
        try:
            await client.request(subject, timeout=_FOREVER)
        except Exception as error:
            if type(error).__name__ != _NOBODY:
                raise

    return check


def pending(client: Client, *, stream: str, consumer: str, warn: float, fail: float | None = None) -> CheckFunc:
    """Return a check that a consumer of JetStream is not too far behind; observes `pending`.

    `pending` is how many messages it has yet to acknowledge: those that wait to be delivered, and those that were. A
    stream or consumer that does not exist fails with `NotFoundError`, and a server without JetStream with
    `ServiceUnavailableError`. Cost: a request to the leader of the consumer. Every 10 s is fine.

    Args:
        client: What `nats.connect` returned.
        stream: The name of the stream.
        consumer: The name of its durable consumer.
        warn: How many messages it warns from.
        fail: How many messages it fails from; never, if you do not say.

    Raises:
        TypeError: It is no such connection.
        ValueError: The limits make no sense.

    Example:
        >>> check = nats.pending(connection, stream="ORDERS", consumer="billing", warn=1_000, fail=100_000)
        >>> checker.add("billing", check, critical=False)
    """
    _require_client("nats.pending", client)
    jetstream = client.jetstream()

    async def measure() -> float:
        _require_connected(client)
        info = await jetstream.consumer_info(stream, consumer, timeout=_FOREVER)
        return float(info.num_pending + info.num_ack_pending)

    return threshold(measure, warn=warn, fail=fail, observation="pending")


def _require_connected(client: Client) -> None:
    # A request of a client that is reconnecting is kept until it has.
    if not client.is_connected:
        raise Failed("the client is not connected to any server")


def _require_client(subject: str, client: object) -> None:
    if not all(hasattr(client, name) for name in ("is_connected", "request", "jetstream")):
        raise TypeError(f"{subject}: {type(client).__name__} is no connection of nats-py; pass what connect returned")
