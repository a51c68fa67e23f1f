"""MQTT, through the client of aiomqtt or paho-mqtt that the application holds."""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, completes, is_async

_NEVER_SUBSCRIBED: Final = "otel_health/never-subscribed"
_SHORTEST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.05


class AsyncClient(Protocol):
    """What is used of an `aiomqtt.Client`."""

    def unsubscribe(self, topic: str, /, *, timeout: float) -> Awaitable[None]: ...


class Client(Protocol):
    """What is used of a `paho.mqtt.client.Client`."""

    def is_connected(self) -> bool: ...
    def publish(self, topic: str, /, *, qos: int) -> Any: ...


def answers(client: AsyncClient) -> CheckFunc:
    """Return a check that the broker answers on this connection, for a client of aiomqtt.

    It ends a subscription that never was, and the broker acknowledges that; nobody gets a message. While the client is
    not connected it fails at once. It does not prove that you may publish or subscribe. Cost: a packet to and fro.
    Every 10 s is fine.

    Raises:
        TypeError: It is no such client.

    Example:
        >>> checker.add("mqtt", mqtt.answers(client))
    """
    if not hasattr(client, "unsubscribe") or not is_async(client.unsubscribe):
        raise TypeError(
            f"mqtt.answers: {type(client).__name__} is no client of aiomqtt; pass the one that the application holds, "
            "and one of paho-mqtt to mqtt.publishes"
        )

    async def ask() -> None:
        await client.unsubscribe(_NEVER_SUBSCRIBED, timeout=math.inf)

    return completes(ask)


def publishes(client: Client, *, topic: str) -> CheckFunc:
    """Return a check that the broker acknowledges a message, for a client of paho-mqtt.

    It publishes an empty message with QoS 1, and waits until that is acknowledged; so the client's network loop must
    run (`loop_start`). While one is not acknowledged it sends no other. While the client is not connected it fails at
    once. A broker may acknowledge what it then drops because you may not publish there. Cost: a message to whoever
    subscribes to this topic. Every 10 s is fine.

    Args:
        client: The client that the application holds.
        topic: Where to publish: a topic that nobody minds.

    Raises:
        TypeError: It is no such client.
        ValueError: It is no topic that can be published to.

    Example:
        >>> checker.add("mqtt", mqtt.publishes(client, topic="health/orders"))
    """
    if not hasattr(client, "is_connected") or not hasattr(client, "publish"):
        raise TypeError(
            f"mqtt.publishes: {type(client).__name__} is no client of paho-mqtt; pass the one that the application "
            "holds, and one of aiomqtt to mqtt.answers"
        )
    if not topic or set(topic) & set("+#"):
        raise ValueError(f"mqtt.publishes: topic={topic!r} cannot be published to; give a topic without wildcards")
    unacknowledged: Any = None

    async def check() -> None:
        nonlocal unacknowledged
        if not client.is_connected():
            raise Failed("the client is not connected")
        message = unacknowledged or client.publish(topic, qos=1)
        unacknowledged = message if message.rc == 0 else None
        # It raises where the message could not be sent. Paho has nothing that a coroutine could wait for.
        pause = _SHORTEST_PAUSE
        while not message.is_published():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        unacknowledged = None

    return check
