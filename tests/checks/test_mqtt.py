"""MQTT beyond what every server is put to: refusals, and what is left at the broker and at other clients."""

import asyncio
import threading
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from otel_health.checks import mqtt
from tests.checks.clients import aiomqtt_client, paho_client
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, own_mosquitto


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A broker that the tests share."""
    return servers("mosquitto")


def publishes(client: Any) -> Any:
    """The check of a client of paho-mqtt."""
    return mqtt.publishes(client, topic="health")


@pytest.mark.parametrize("make", [mqtt.answers, publishes])
def test_what_is_no_client_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match=r"str is no client of (aiomqtt|paho-mqtt)") as caught:
        make("mqtt://orders:s3cret@broker")

    assert "s3cret" not in str(caught.value)


def test_each_client_has_its_check() -> None:
    """A refusal names the check that is meant."""
    client = paho.Client(CallbackAPIVersion.VERSION2)

    with pytest.raises(TypeError, match="one of paho-mqtt to"):
        mqtt.answers(client)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without wildcards"):
        mqtt.publishes(client, topic="health/#")


@pytest.mark.parametrize(
    ("opened", "make", "told"),
    [(aiomqtt_client, mqtt.answers, "MqttCodeError"), (paho_client, publishes, "failed")],
    ids=["aiomqtt", "paho"],
)
async def test_a_broker_that_refuses_us_is_told(opened: Any, make: Any, told: str) -> None:
    """One that wants a password lets nobody in who has none."""
    with own_mosquitto(anonymous=False) as server:
        async with opened(server.port) as client:
            refused = await result_of(make(client))

    assert (refused.status, refused.refined_error_type) == ("fail", told)


async def test_a_subscription_of_the_application_stays(server: OwnServer) -> None:
    """`answers` ends none, and sends nothing."""
    async with aiomqtt.Client("127.0.0.1", server.port) as client:
        await client.subscribe("#", qos=1)
        for _ in range(3):
            assert (await result_of(mqtt.answers(client))).status == "pass"
        await client.publish("orders", b"order", qos=1)

        async with asyncio.timeout(5):
            assert str((await anext(aiter(client.messages))).topic) == "orders"


async def test_one_message_at_most_waits_to_be_acknowledged(server: OwnServer) -> None:
    """However often it was asked while the broker was frozen, subscribers get one message for that."""
    received: list[str] = []
    async with paho_client(server.port) as other, paho_client(server.port) as client:
        other.on_message = lambda _client, _data, message: received.append(message.topic)
        subscribed = threading.Event()
        other.on_subscribe = lambda *_: subscribed.set()
        other.subscribe("health", qos=1)
        await eventually(subscribed.is_set)
        check = publishes(client)
        assert (await result_of(check)).status == "pass"
        await eventually(lambda: received == ["health"])
        server.pause()
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await check()
        finally:
            server.resume()

        await becomes("pass", check)
        await eventually(lambda: len(received) >= 2)
        client.publish("health", qos=1).wait_for_publish(5)
        await eventually(lambda: len(received) >= 3)
    assert len(received) == 3
