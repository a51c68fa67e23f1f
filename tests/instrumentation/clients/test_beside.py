"""Beside OpenTelemetry's own instrumentors for the same libraries: in whatever order, nobody loses a wrapper."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from importlib import import_module
from typing import Any, NamedTuple

import aio_pika
import pytest
import sqlalchemy
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_health import Checker
from tests.checks import clients
from tests.instrumentation.clients import test_servers as made
from tests.instrumentation.clients.test_passive import fetch, ping, select, select_async
from tests.instrumentation.clients.watched import Watched
from tests.servers import missing, own_kafka, shared_postgres, shared_redis


async def execute(pool: Any) -> None:
    """What an application asks of a pool of psycopg."""
    with pool.connection() as connection:
        connection.execute("SELECT 1")


async def publish(connection: Any) -> None:
    """What an application sends to RabbitMQ."""
    async with connection.channel() as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"an order"), "nowhere")


async def send(producer: Any) -> None:
    """What an application sends through aiokafka."""
    await producer.send_and_wait("orders", b"an order")


async def produce(producer: Any) -> None:
    """What an application sends through confluent-kafka."""
    producer.produce("orders", b"an order")
    producer.flush(5)


async def send_and_wait(producer: Any) -> None:
    """What an application sends through kafka-python."""
    producer.send("orders", b"an order").get(5)


async def call(channel: Any) -> None:
    """What an application asks a gRPC server, which is not there."""
    with suppress(Exception):
        answer = channel.unary_unary("/orders.Orders/List")(b"")
        if hasattr(answer, "__await__"):
            await answer


@asynccontextmanager
async def file(_: int) -> AsyncIterator[sqlalchemy.Engine]:
    """An engine of a database in a file."""
    engine = sqlalchemy.create_engine("sqlite:////tmp/otel_health-beside.sqlite3")
    try:
        yield engine
    finally:
        engine.dispose()


class Case(NamedTuple):
    """A library that both of us instrument, and what is done with it."""

    technology: str
    instrumentor: str
    opened: Callable[[int], AbstractAsyncContextManager[Any]]
    use: Callable[[Any], Awaitable[None]]
    server: str = "nobody"


CASES = [
    Case("redis", "redis:RedisInstrumentor", clients.redis_sync, ping, "redis"),
    Case("redis", "redis:RedisInstrumentor", clients.redis_async, ping, "redis"),
    Case("sqlalchemy", "sqlalchemy:SQLAlchemyInstrumentor", file, select),
    Case("sqlalchemy", "sqlalchemy:SQLAlchemyInstrumentor", clients.async_engine, select_async, "postgres"),
    Case("asyncpg", "asyncpg:AsyncPGInstrumentor", clients.asyncpg_pool, fetch, "postgres"),
    Case("psycopg", "psycopg:PsycopgInstrumentor", clients.psycopg_sync, execute, "postgres"),
    Case("aio-pika", "aio_pika:AioPikaInstrumentor", made.robust, publish, "rabbitmq"),
    Case("aiokafka", "aiokafka:AIOKafkaInstrumentor", clients.aiokafka_producer, send, "kafka"),
    Case("confluent-kafka", "confluent_kafka:ConfluentKafkaInstrumentor", made.producer, produce, "kafka"),
    Case("kafka-python", "kafka:KafkaInstrumentor", made.kafka_python_producer, send_and_wait, "kafka"),
    Case("grpc", "grpc:GrpcInstrumentorClient", made.channel, call),
    Case("grpc", "grpc:GrpcAioInstrumentorClient", made.channel_async, call),
]


@pytest.fixture(scope="module")
def port_of() -> Iterator[Callable[[str], int]]:
    """Where a server listens."""
    with ExitStack() as stack:
        brokers: list[int] = []

        def port(server: str) -> int:
            if server == "kafka" and not brokers:
                brokers.append(stack.enter_context(own_kafka()).port)
            if server in ("kafka", "nobody"):
                return brokers[0] if server == "kafka" else 1
            return {"postgres": shared_postgres, "redis": shared_redis, "rabbitmq": made.shared_rabbitmq}[server]()

        yield port


@pytest.mark.parametrize("first_to_leave", ["ours", "theirs"])
@pytest.mark.parametrize("first_to_come", ["ours", "theirs"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.technology}-{case.opened.__name__}")
async def test_neither_loses_its_wrapper(
    case: Case, first_to_come: str, first_to_leave: str, port_of: Callable[[str], int]
) -> None:
    """Both see a client and what is done with it while they are there, and the one that stays goes on seeing."""
    port = port_of(case.server)
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    theirs = instrumentor_of(case)
    application = Watched(Checker(), technologies=[case.technology], passive_for=1.0)
    ours = application.clients

    def come(who: str) -> None:
        ours.instrument() if who == "ours" else theirs.instrument(tracer_provider=provider, skip_dep_check=True)

    def leave(who: str) -> None:
        ours.uninstrument() if who == "ours" else theirs.uninstrument()

    other = {"ours": "theirs", "theirs": "ours"}
    try:
        come(first_to_come)
        come(other[first_to_come])
        assert await who_sees(case, port, application, spans) == {"ours", "theirs"}
        leave(first_to_leave)
        application.names()
        assert await who_sees(case, port, application, spans) == {other[first_to_leave]}
        leave(other[first_to_leave])
        assert await who_sees(case, port, application, spans) == set()
    finally:
        ours.uninstrument()
        if theirs.is_instrumented_by_opentelemetry:
            theirs.uninstrument()


async def who_sees(case: Case, port: int, application: Watched, spans: InMemorySpanExporter) -> set[str]:
    """Use a client that is made now."""
    async with asyncio.timeout(10):
        while application.names():  # A thread may hold the last one for a moment.
            gc.collect()
            await asyncio.sleep(0.01)
    spans.clear()
    async with case.opened(port) as client:
        await case.use(client)
        ours = application.names()
    # The synchronous one of gRPC takes no provider of ours.
    theirs = spans.get_finished_spans() or type(client).__module__.startswith("opentelemetry.")
    del client
    return ({"ours"} if ours else set()) | ({"theirs"} if theirs else set())


def instrumentor_of(case: Case) -> Any:
    """OpenTelemetry's own instrumentor."""
    module, name = case.instrumentor.split(":")
    try:
        return getattr(import_module(f"opentelemetry.instrumentation.{module}"), name)()
    except ImportError:
        missing(f"opentelemetry-instrumentation-{module.replace('_', '-')} is not installed")
