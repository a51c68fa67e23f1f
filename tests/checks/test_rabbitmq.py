"""RabbitMQ beyond what every server is put to: refusals, queues that grow, queues that nobody consumes."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from otel_health.checks import rabbitmq
from tests.checks.clients import amqp_robust
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.servers import OwnServer, RabbitMQ


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A RabbitMQ that the tests share."""
    return servers("rabbitmq")


@pytest.fixture
async def connection(server: OwnServer) -> AsyncIterator[aio_pika.RobustConnection]:
    """A connection to it."""
    async with amqp_robust(server.port) as opened:
        yield opened


@pytest.fixture
async def queue(connection: aio_pika.RobustConnection) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    """A queue with three messages."""
    channel = await connection.channel()
    declared = await channel.declare_queue(uuid.uuid4().hex, auto_delete=True)
    for _ in range(3):
        await channel.default_exchange.publish(aio_pika.Message(b"order"), routing_key=declared.name)
    yield declared
    await declared.delete(if_unused=False, if_empty=False)


@pytest.mark.parametrize(
    "make",
    [
        rabbitmq.answers,
        lambda connection: rabbitmq.backlog(connection, queue="orders", warn=1),
        lambda connection: rabbitmq.consumed(connection, queue="orders"),
    ],
)
def test_what_is_no_connection_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no connection of aio-pika") as caught:
        make("amqp://orders:s3cret@broker/")

    assert "s3cret" not in str(caught.value)


async def test_arguments_that_make_no_sense_are_refused() -> None:
    """A queue without a name would be the one declared last; less than one consumer is always there."""
    connection = aio_pika.RobustConnection("amqp://127.0.0.1:1/")  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="queue='' cannot name a queue"):
        rabbitmq.backlog(connection, queue="", warn=1)
    with pytest.raises(ValueError, match="consumers=0 must be a whole number"):
        rabbitmq.consumed(connection, queue="orders", consumers=0)
    with pytest.raises(ValueError, match="swap them"):
        rabbitmq.backlog(connection, queue="orders", warn=2, fail=1)


async def test_a_server_that_refuses_us_is_told(server: OwnServer) -> None:
    """With a wrong password there is no connection; the password is not repeated."""
    async with amqp_robust(server.port, password="s3cret") as connection:
        refused = await result_of(rabbitmq.answers(connection))

    assert (refused.status, refused.message) == ("fail", "the connection is closed")
    assert "s3cret" not in str(refused)


async def test_a_connection_without_channels_is_left_to_the_application(server: OwnServer) -> None:
    """The server closes a connection on which one channel too many is opened; the check opens none, and says so."""
    assert isinstance(server, RabbitMQ)
    server.control("eval", "application:set_env(rabbit, channel_max, 2).")
    try:
        async with amqp_robust(server.port) as connection:
            channels = [await connection.channel() for _ in range(2)]
            result = await result_of(rabbitmq.answers(connection))
            assert (result.status, result.message) == ("fail", "all 2 channels of the connection are in use")

            await channels[0].close()
            await becomes("pass", rabbitmq.answers(connection))
            assert not channels[1].is_closed
    finally:
        server.control("eval", "application:set_env(rabbit, channel_max, 2047).")


async def test_a_queue_is_held_against_its_limits(
    connection: aio_pika.RobustConnection, queue: aio_pika.abc.AbstractQueue
) -> None:
    """Three messages wait: below, at the one and at the other limit; once they are consumed it passes."""
    limits = [(4, 5), (3, 4), (2, 3)]
    checks = [rabbitmq.backlog(connection, queue=queue.name, warn=warn, fail=fail) for warn, fail in limits]

    results = [await becomes(status, check) for status, check in zip(["pass", "warn", "fail"], checks, strict=True)]
    assert all(result.observations == {"messages": 3.0} for result in results)

    for _ in range(3):
        await queue.get(no_ack=True)
    assert (await becomes("pass", checks[2])).observations == {"messages": 0.0}


async def test_a_queue_that_nobody_consumes_fails(
    connection: aio_pika.RobustConnection, queue: aio_pika.abc.AbstractQueue
) -> None:
    """None: it fails. One: it passes, unless two are wanted."""
    one, two = [rabbitmq.consumed(connection, queue=queue.name, consumers=number) for number in (1, 2)]
    assert (await result_of(one)).message == "0 of the 1 consumers needed"

    async with queue.iterator():
        assert (await result_of(one)).observations == {"consumers": 1.0}
        assert (await result_of(two)).observations == {"consumers": 1.0}
        assert (await result_of(two)).status == "fail"


async def test_a_queue_that_is_not_there_fails_and_harms_nobody(
    connection: aio_pika.RobustConnection, queue: aio_pika.abc.AbstractQueue
) -> None:
    """The error closes a channel, and never the application's own; nothing is declared."""
    check = rabbitmq.backlog(connection, queue="no-such-queue", warn=1)

    for _ in range(2):
        assert (await result_of(check)).refined_error_type == "ChannelNotFoundEntity"
    assert await queue.get(no_ack=True)
