"""RabbitMQ, through the connection of aio-pika that the application holds."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from otel_health.check import CheckFunc, Failed, require_count
from otel_health.compose import threshold


class Connected(Protocol):
    """What is used of an `asyncio.Event`."""

    def is_set(self) -> bool: ...


class Connection(Protocol):
    """What is used of an `aio_pika.RobustConnection`, or of an `aio_pika.Connection`."""

    @property
    def connected(self) -> Connected: ...
    @property
    def transport(self) -> Any: ...


def answers(connection: Connection) -> CheckFunc:
    """Return a check that RabbitMQ opens a channel on this connection, and closes it.

    It proves that the connection is there and that the server answers on it. It does not prove that a message would be
    taken, nor that anybody consumes (`consumed`). While a robust connection is reconnecting it fails at once, and so it
    does where the application has taken all its channels. Cost: a channel opened and closed. Every 10 s is fine.

    Args:
        connection: What `connect_robust` or `connect` returned.

    Raises:
        TypeError: It is no such connection.

    Example:
        >>> checker.add("rabbitmq", rabbitmq.answers(connection))
    """
    _require_connection(connection)

    async def check() -> None:
        async with _channel(connection):
            pass

    return check


def backlog(connection: Connection, *, queue: str, warn: float, fail: float | None = None) -> CheckFunc:
    """Return a check that a queue is not too long; observes `messages`.

    Counted is what is ready to be delivered, not what consumers hold and have not acknowledged. A queue that does not
    exist fails. Cost: a channel and a passive declaration. Every 10 s is fine.

    Args:
        connection: What `connect_robust` or `connect` returned.
        queue: The name of the queue.
        warn: How many messages it warns from.
        fail: How many messages it fails from; never, if you do not say.

    Raises:
        TypeError: It is no such connection.
        ValueError: The limits make no sense, or the queue has no name.

    Example:
        >>> checker.add("orders", rabbitmq.backlog(connection, queue="orders", warn=1_000, fail=100_000))
    """
    measure = _asking("rabbitmq.backlog", connection, queue, lambda declared: float(declared.message_count))
    return threshold(measure, warn=warn, fail=fail, observation="messages")


def consumed(connection: Connection, *, queue: str, consumers: int = 1) -> CheckFunc:
    """Return a check that a queue has consumers; observes `consumers`.

    It proves that they have subscribed, not that they get on (`backlog`). A queue that does not exist fails. Cost: a
    channel and a passive declaration. Every 10 s is fine.

    Args:
        connection: What `connect_robust` or `connect` returned.
        queue: The name of the queue.
        consumers: How many it needs; with fewer it fails.

    Raises:
        TypeError: It is no such connection.
        ValueError: `consumers` is no count, or the queue has no name.

    Example:
        >>> checker.add("orders-workers", rabbitmq.consumed(connection, queue="orders", consumers=2), critical=False)
    """
    require_count("rabbitmq.consumed", "consumers", consumers)

    def conclude(declared: Any) -> dict[str, float]:
        found: int = declared.consumer_count
        if found < consumers:
            raise Failed(f"{found} of the {consumers} consumers needed", consumers=found)
        return {"consumers": found}

    return _asking("rabbitmq.consumed", connection, queue, conclude)


def _asking(subject: str, connection: Connection, queue: str, conclude: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return a function that concludes from what the server says of a queue."""
    _require_connection(connection)
    # The server takes an empty name for the queue that was declared last.
    if not isinstance(queue, str) or not queue:
        raise ValueError(f"{subject}: queue={queue!r} cannot name a queue; give its name")

    async def ask() -> Any:
        async with _channel(connection) as channel:
            declared = await channel.queue_declare(queue, passive=True)
        return conclude(declared)

    return ask


@asynccontextmanager
async def _channel(connection: Connection) -> AsyncIterator[Any]:
    if not connection.connected.is_set():
        raise Failed("the connection is closed")
    # Of aiormq, below aio-pika: each channel of aio-pika's own leaves some 2 KiB at its connection, for good (10.2).
    wire = connection.transport.connection
    most = wire.connection_tune.channel_max
    # At one too many the server closes the connection, and with it whatever the application does there.
    if most and len(wire.channels) >= most:
        raise Failed(f"all {most} channels of the connection are in use")
    channel = await wire.channel(publisher_confirms=False)
    try:
        yield channel
    finally:
        await channel.close()


def _require_connection(connection: object) -> None:
    if not hasattr(getattr(connection, "connected", None), "is_set") or not hasattr(connection, "transport"):
        raise TypeError(
            f"rabbitmq: {type(connection).__name__} is no connection of aio-pika; pass what connect_robust returned. "
            "One of pika belongs to its thread, and cannot be asked from another"
        )
