"""Every technology on a real server: stop it and the right component fails, start it and that one passes."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, closing
from functools import cache
from typing import Any, NamedTuple

import aio_pika
import asyncpg
import confluent_kafka
import grpc
import grpc.aio
import kafka
import pytest
from confluent_kafka.admin import AdminClient

from otel_health_instrumentation.clients import TECHNOLOGIES
from tests import servers as our
from tests.checks import clients
from tests.checks.programs import python
from tests.instrumentation.clients.test_django import databases
from tests.instrumentation.clients.watched import Watched, watching
from tests.servers import OwnServer

PATIENCE = 30.0
"""Seconds that a server may take to start, and a client to connect again."""

SOON = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]


def shared_rabbitmq() -> int:
    """Return the port of the RabbitMQ of `make services`, which takes long to start."""
    port = int(os.environ.get("OTEL_HEALTH_TEST_RABBITMQ_PORT", "25682"))
    return port if our.answers(port) else our.missing("RabbitMQ is not running")


STARTED: dict[str, Callable[[], AbstractContextManager[OwnServer]]] = {
    "grpc": lambda: python("tests.checks.grpc_server"),
    "rabbitmq": lambda: python("tests.instrumentation.clients.forwarder", str(shared_rabbitmq())),
    **{kind: getattr(our, f"own_{kind}") for kind in ("kafka", "postgres", "redis")},
}


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[asyncpg.Connection]:
    """A connection of asyncpg that the application keeps, to listen on."""
    made = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres")
    try:
        yield made
    finally:
        made.terminate()


@asynccontextmanager
async def robust(port: int) -> AsyncIterator[aio_pika.abc.AbstractRobustConnection]:
    """A connection of aio-pika that connects again."""
    made = await aio_pika.connect_robust(f"amqp://guest:guest@127.0.0.1:{port}/", reconnect_interval=0.1)
    async with made:
        yield made


@asynccontextmanager
async def django_database(port: int) -> AsyncIterator[Any]:
    """A database of Django's settings, as a thread has it."""
    connections = databases(
        ENGINE="django.db.backends.postgresql", HOST="127.0.0.1", PORT=port, USER="postgres", NAME="postgres"
    )
    yield connections.create_connection("default")


@asynccontextmanager
async def producer(port: int) -> AsyncIterator[confluent_kafka.Producer]:
    """A producer of confluent-kafka, looked up as an application looks it up."""
    yield confluent_kafka.Producer(clients.librdkafka(port))


@asynccontextmanager
async def consumer(port: int) -> AsyncIterator[confluent_kafka.Consumer]:
    """A consumer of confluent-kafka, with its settings as keywords."""
    made = confluent_kafka.Consumer(**clients.librdkafka(port), **{"group.id": "orders"})
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def administrator(port: int) -> AsyncIterator[AdminClient]:
    """An admin client of confluent-kafka."""
    yield AdminClient(clients.librdkafka(port))


MOCKED = {"api_version": (2, 3)}
"""Librdkafka's mock cluster answers later clients in a way that kafka-python does not take."""


@asynccontextmanager
async def kafka_python_producer(port: int) -> AsyncIterator[kafka.KafkaProducer]:
    """A producer of kafka-python."""
    with closing(kafka.KafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", **MOCKED)) as made:
        yield made


@asynccontextmanager
async def kafka_python_consumer(port: int) -> AsyncIterator[kafka.KafkaConsumer]:
    """A consumer of kafka-python."""
    with closing(kafka.KafkaConsumer("orders", bootstrap_servers=[f"127.0.0.1:{port}"], **MOCKED)) as made:
        yield made


@asynccontextmanager
async def kafka_python_administrator(port: int) -> AsyncIterator[kafka.KafkaAdminClient]:
    """An admin client of kafka-python."""
    with closing(kafka.KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", **MOCKED)) as made:
        yield made


@asynccontextmanager
async def channel(port: int) -> AsyncIterator[grpc.Channel]:
    """A synchronous channel."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=SOON) as made:
        yield made


@asynccontextmanager
async def channel_async(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """An asynchronous channel."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SOON) as made:
        yield made


class Way(NamedTuple):
    """One way in which an application makes a client."""

    technology: str
    server: str
    opened: Callable[[int], AbstractAsyncContextManager[Any]]
    name: str
    closes: bool = True
    """Whether a client can be closed for good; others are gone when nobody holds them."""


WAYS = [
    Way("redis", "redis", clients.redis_sync, "redis-127.0.0.1-{port}-0", closes=False),
    Way("redis", "redis", clients.redis_async, "redis-127.0.0.1-{port}-0", closes=False),
    Way("valkey", "redis", clients.valkey_sync, "valkey-127.0.0.1-{port}-0", closes=False),
    Way("valkey", "redis", clients.valkey_async, "valkey-127.0.0.1-{port}-0", closes=False),
    Way("sqlalchemy", "postgres", clients.engine, "postgresql-127.0.0.1-{port}-postgres", closes=False),
    Way("sqlalchemy", "postgres", clients.async_engine, "postgresql-127.0.0.1-{port}-postgres", closes=False),
    Way("asyncpg", "postgres", clients.asyncpg_pool, "postgresql-127.0.0.1-{port}-postgres"),
    Way("asyncpg-connections", "postgres", connection, "postgresql-127.0.0.1-{port}", closes=False),
    Way("psycopg", "postgres", clients.psycopg_sync, "postgresql-127.0.0.1-{port}-postgres"),
    Way("psycopg", "postgres", clients.psycopg_async, "postgresql-127.0.0.1-{port}-postgres"),
    Way("django", "postgres", django_database, "postgresql-127.0.0.1-{port}-postgres", closes=False),
    Way("aio-pika", "rabbitmq", robust, "rabbitmq-127.0.0.1-{port}"),
    Way("aiokafka", "kafka", clients.aiokafka_producer, "kafka-127.0.0.1-{port}"),
    Way("aiokafka", "kafka", clients.aiokafka_consumer, "kafka-127.0.0.1-{port}"),
    Way("confluent-kafka", "kafka", producer, "kafka-127.0.0.1-{port}", closes=False),
    Way("confluent-kafka", "kafka", consumer, "kafka-127.0.0.1-{port}", closes=False),
    Way("confluent-kafka", "kafka", administrator, "kafka-127.0.0.1-{port}", closes=False),
    Way("kafka-python", "kafka", kafka_python_producer, "kafka-127.0.0.1-{port}"),
    Way("kafka-python", "kafka", kafka_python_consumer, "kafka-127.0.0.1-{port}"),
    Way("kafka-python", "kafka", kafka_python_administrator, "kafka-127.0.0.1-{port}"),
    Way("grpc", "grpc", channel, "grpc-127.0.0.1-{port}"),
    Way("grpc", "grpc", channel_async, "grpc-127.0.0.1-{port}"),
]


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[str], OwnServer]]:
    """Start a server of the tests' own at its first use."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(STARTED[kind]()))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.technology}-{way.opened.__name__}")
async def test_the_right_component_follows_its_server(way: Way, started: Callable[[str], OwnServer]) -> None:
    """Found by itself, it passes, fails, passes again, and is gone with its client."""
    server = started(way.server)
    name = way.name.format(port=server.port)
    with watching(way.technology) as application:
        async with way.opened(server.port) as client:
            assert name in application.names()
            assert await becomes("pass", application, name)
            server.kill()
            assert await becomes("fail", application, name)
            server.start()
            server.wait_until_ready()
            assert await becomes("pass", application, name)
        if way.closes:
            assert name not in application.names()
        del client
        gc.collect()
        async with asyncio.timeout(PATIENCE):
            while name in application.names():
                await asyncio.sleep(0.01)
                gc.collect()


async def becomes(status: str, application: Watched, name: str) -> bool:
    """Ask until this comes of it."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while (found := await application.status(name)) != status and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - its runs are awaited.
        await asyncio.sleep(0.02)
    return found == status


def test_every_technology_is_proven() -> None:
    """Whoever adds one adds a way."""
    assert {way.technology for way in WAYS} == TECHNOLOGIES.keys()


async def test_a_client_that_turns_out_to_be_closed_says_nothing_of_its_server(
    started: Callable[[str], OwnServer],
) -> None:
    """One of confluent-kafka tells of it only when it is asked: with that the component is gone, and did not fail."""
    told: list[Any] = []
    server = started("kafka")
    with watching("confluent-kafka") as application:
        async with consumer(server.port) as client:
            (name,) = application.names()
            assert await becomes("pass", application, name)
        application.checker.subscribe(told.append)

        application.checker.renew(name)
        await application.checker.run("healthz")

        assert application.checker.names == ()
        assert told == []
        del client


async def test_a_broker_that_is_away_costs_no_thread(started: Callable[[str], OwnServer]) -> None:
    """A client of kafka-python that finds no broker when it is made leaves its thread running."""
    server = started("kafka")
    with watching("kafka-python") as application:
        async with kafka_python_producer(server.port) as client:
            (name,) = application.names()
            server.kill()
            assert await becomes("fail", application, name)
            before = threading.active_count()
            for _ in range(3):
                assert await application.status(name) == "fail"
            server.start()

            assert threading.active_count() <= before
            del client
