"""NATS beyond what every server is put to: refusals, given-up flushes, JetStream and consumers that are behind."""

import asyncio
import uuid
from typing import Any

import pytest
from nats.aio.msg import Msg

from otel_health.checks import nats as checks
from tests.checks.clients import nats_client
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, own_nats


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A NATS server that the tests share."""
    return servers("nats")


@pytest.mark.parametrize("make", [checks.answers, lambda it: checks.pending(it, stream="S", consumer="C", warn=1)])
def test_what_is_no_connection_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no connection of nats-py") as caught:
        make("nats://orders:s3cret@broker:4222")

    assert "s3cret" not in str(caught.value)


async def test_a_server_that_refuses_us_is_told() -> None:
    """With a wrong password there is no connection; the password is not repeated."""
    with own_nats("--user", "orders", "--pass", "right") as server:
        async with nats_client(server.port, user="orders", password="s3cret") as client:
            refused = await result_of(checks.answers(client))
        async with nats_client(server.port, user="orders", password="right") as client:
            assert (await result_of(checks.answers(client))).status == "pass"

    assert (refused.status, refused.message) == ("fail", "the client is not connected to any server")
    assert "s3cret" not in str(refused)


async def test_a_reply_is_as_good_as_none(server: OwnServer) -> None:
    """Where somebody listens on the subject, the answer is theirs."""

    async def reply(message: Msg) -> None:
        await message.respond(b"")

    async with nats_client(server.port) as client:
        await client.subscribe("orders.health", cb=reply)

        assert (await result_of(checks.answers(client, subject="orders.health"))).status == "pass"


async def test_a_check_that_was_given_up_breaks_nothing(server: OwnServer) -> None:
    """A flush that was given up may break nats-py, which still says it is connected; our own check does not."""
    async with nats_client(server.port) as client:
        check = checks.answers(client)
        server.pause()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await check()  # type: ignore[misc]
        finally:
            server.resume()

        await becomes("pass", check)


async def test_a_consumer_is_held_against_its_limits(server: OwnServer) -> None:
    """Three are pending, delivered or not, until they are acknowledged."""
    name = uuid.uuid4().hex
    async with nats_client(server.port) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name=name, subjects=[name])
        subscription = await jetstream.pull_subscribe(name, durable="billing")
        for _ in range(3):
            await jetstream.publish(name, b"order")
        passing, warning, failing = [
            checks.pending(client, stream=name, consumer="billing", warn=warn, fail=warn + 1) for warn in (4, 3, 2)
        ]

        assert (await result_of(passing)).observations == {"pending": 3.0}
        assert (await result_of(warning)).status == "warn"
        assert (await result_of(failing)).status == "fail"

        messages = await subscription.fetch(2)
        assert (await result_of(passing)).observations == {"pending": 3.0}
        for message in messages:
            await message.ack_sync()
        assert (await result_of(failing)).observations == {"pending": 1.0}


async def test_a_consumer_that_is_not_there_fails(server: OwnServer) -> None:
    """It is told by its error."""
    async with nats_client(server.port) as client:
        result = await result_of(checks.pending(client, stream="no-such-stream", consumer="billing", warn=1))

    assert (result.status, result.refined_error_type) == ("fail", "NotFoundError")


async def test_a_server_without_jetstream_answers_and_no_more() -> None:
    """`pending` tells; while there is no connection both tell that, and nothing is kept to be sent later."""
    with own_nats(jetstream=False) as server:
        async with nats_client(server.port) as client:
            answers = checks.answers(client)
            pending = checks.pending(client, stream="ORDERS", consumer="billing", warn=1)
            assert (await result_of(answers)).status == "pass"
            assert (await result_of(pending)).refined_error_type == "ServiceUnavailableError"

            server.kill()
            await eventually(lambda: not client.is_connected)
            for check in (answers, pending):
                assert (await result_of(check)).message == "the client is not connected to any server"
            assert client.pending_data_size == 0
