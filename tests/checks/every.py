"""Every check that there is, each way of asking, at the server that it is for: to be run as often as one likes."""

import os
import sqlite3
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import aio_pika
import confluent_kafka
import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_health import CheckFunc, Status
from otel_health.checks import (
    alembic,
    celery,
    cgroup,
    dbapi,
    disk,
    dns,
    environment,
    file,
    grpc,
    http,
    kafka,
    ldap,
    loop,
    mysql,
    nats,
    otlp,
    postgres,
    process,
    rabbitmq,
    redis,
    redis_cluster,
    s3,
    service,
    smtp,
    sqlalchemy,
    sqlite,
    tcp,
    tls,
)
from tests.checks import clients, test_grpc, test_ldap, test_redis_cluster, test_s3
from tests.checks.conftest import Started
from tests.checks.more_servers import TRUSTING

Opened = Callable[[Started], AbstractAsyncContextManager[CheckFunc]]
"""Opens what a check needs at the servers that it asks for, gives the check, and closes it all."""


@dataclass(frozen=True)
class Row:
    """A check that is ready to be run."""

    opened: Opened
    says: Status = Status.PASS
    """What it says each time."""


def over(server: str, client: Any, make: Callable[[Any], CheckFunc]) -> Opened:
    """By a client, or whatever else one opens for a port."""

    @asynccontextmanager
    async def opened(servers: Started) -> AsyncIterator[CheckFunc]:
        async with client(servers(server).port) as held:
            yield make(held)

    return opened


def at(server: str, make: Callable[[int], CheckFunc]) -> Opened:
    """At a port, by connections of our own."""

    @asynccontextmanager
    async def opened(servers: Started) -> AsyncIterator[CheckFunc]:
        yield make(servers(server).port)

    return opened


def within(make: Callable[[], CheckFunc]) -> Opened:
    """Inside this process."""

    @asynccontextmanager
    async def opened(_: Started) -> AsyncIterator[CheckFunc]:
        yield make()

    return opened


def in_directory(make: Callable[[Path], CheckFunc]) -> Opened:
    """In a directory of its own."""

    @asynccontextmanager
    async def opened(_: Started) -> AsyncIterator[CheckFunc]:
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            yield make(Path(directory))

    return opened


def in_file(make: Callable[[Path], CheckFunc]) -> Opened:
    """On a database of SQLite."""

    def made(directory: Path) -> CheckFunc:
        with closing(sqlite3.connect(directory / "orders.db")) as connection:
            connection.execute("CREATE TABLE orders (id INTEGER)")
        return make(directory / "orders.db")

    return in_directory(made)


def migrated(engine: Any) -> Opened:
    """A database that no migration was ever made for, and a directory without any: it is up to date."""

    @asynccontextmanager
    async def opened(servers: Started) -> AsyncIterator[CheckFunc]:
        table = f"versions_{uuid.uuid4().hex}"
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            config = Config()
            config.set_main_option("script_location", directory)
            config.set_main_option("path_separator", "os")
            (Path(directory) / "versions").mkdir()
            scripts = ScriptDirectory.from_config(config)
            port = servers("postgres").port
            with psycopg.connect(host="127.0.0.1", port=port, user="postgres") as connection:
                connection.execute(f"CREATE TABLE {table} (version_num VARCHAR(32))")
            async with engine(port) as made:
                yield alembic.migrated(made, scripts=scripts, version_table=table)

    return opened


def with_queue(make: Callable[[Any, str], CheckFunc]) -> Opened:
    """On a queue of RabbitMQ, with one consumer."""

    @asynccontextmanager
    async def opened(servers: Started) -> AsyncIterator[CheckFunc]:
        async with clients.amqp_robust(servers("rabbitmq").port) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(uuid.uuid4().hex, auto_delete=True)

            async def take(_: aio_pika.abc.AbstractIncomingMessage) -> None: ...

            await queue.consume(take)
            yield make(connection, queue.name)

    return opened


@asynccontextmanager
async def pending(servers: Started) -> AsyncIterator[CheckFunc]:
    """On a consumer of JetStream."""
    name = uuid.uuid4().hex
    async with clients.nats_client(servers("nats").port) as client:
        await client.jetstream().add_stream(name=name, subjects=[name])
        await client.jetstream().pull_subscribe(name, durable="billing")
        yield nats.pending(client, stream=name, consumer="billing", warn=1)


def consuming(make: Callable[[Any], CheckFunc], *, asynchronous: bool) -> Opened:
    """On a consumer of a topic of Kafka."""

    @asynccontextmanager
    async def opened(servers: Started) -> AsyncIterator[CheckFunc]:
        topic, port = uuid.uuid4().hex, servers("kafka").port
        with confluent_kafka.Producer(clients.librdkafka(port)) as producer:
            producer.produce(topic, b"order", partition=0)
            producer.flush(10)
        if asynchronous:
            async with clients.aiokafka_consumer(port, topic, group=topic) as consumer:
                await consumer.getone()
                yield make(consumer)
        else:
            async with clients.kafka_consumer(port, topic) as consumer:
                consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
                while consumer.poll(0.1) is None:
                    pass
                yield make(consumer)

    return opened


@asynccontextmanager
async def exporting(servers: Started) -> AsyncIterator[CheckFunc]:
    """On an exporter that exports nothing meanwhile."""
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{servers('receiver').port}/v1/traces")
    yield otlp.exports(exporter)
    exporter.shutdown()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def queueing(servers: Started) -> AsyncIterator[CheckFunc]:
    """On a queue of spans that is empty."""
    told = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
    os.environ[told] = "true"
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{servers('receiver').port}/v1/traces")
    queue = BatchSpanProcessor(exporter, meter_provider=meters)
    del os.environ[told]
    yield otlp.queue_use(reader)
    queue.shutdown()  # type: ignore[no-untyped-call]
    meters.shutdown()


def named(way: clients.Way) -> str:
    """The technology and the factory of a way's check."""
    make: Any = way.check
    function = make.func if isinstance(make, partial) else make
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


MAIL: Final[Any] = {"context": TRUSTING, "user": "orders", "password": "right"}
RPC: Final = {"aio": test_grpc.asynchronous, "blocking": test_grpc.synchronous}
NODE: Final = {
    "redis": test_redis_cluster.redis_sync,
    "redis async": test_redis_cluster.redis_async,
    "valkey": test_redis_cluster.valkey_sync,
    "valkey async": test_redis_cluster.valkey_async,
}

EVERY: Final[dict[str, Row]] = {
    **{f"{named(way)}, {name}": Row(over(way.server, way.client, way.check)) for name, way in clients.WAYS.items()},
    "alembic.migrated, engine": Row(migrated(clients.engine)),
    "alembic.migrated, async engine": Row(migrated(clients.async_engine)),
    "celery.backlog, redis": Row(over("redis", clients.celery_redis, partial(celery.backlog, warn=1))),
    "celery.workers, amqp": Row(
        over("rabbitmq", clients.celery_amqp, partial(celery.workers, wait=0.01)), says=Status.FAIL
    ),
    "cgroup.cpu_throttling": Row(within(cgroup.cpu_throttling)),
    "cgroup.memory": Row(within(partial(cgroup.memory, warn=0.99, fail=1.0))),
    "dbapi.answers, sqlite": Row(in_file(lambda path: dbapi.answers(lambda: closing(sqlite3.connect(path))))),
    "disk.usage": Row(in_directory(partial(disk.usage, warn=0.99, fail=1.0))),
    "dns.resolves": Row(within(lambda: dns.resolves("localhost"))),
    "environment.complete": Row(within(lambda: environment.complete({"PATH"}))),
    "file.fresh": Row(in_file(file.fresh)),
    **{f"grpc.serves, {name}": Row(over("grpc", opened, grpc.serves)) for name, opened in RPC.items()},
    "http.answers": Row(at("nginx", lambda port: http.answers(f"http://localhost:{port}/", contains="orders"))),
    "kafka.lag, confluent": Row(consuming(partial(kafka.lag, warn=9), asynchronous=False)),
    "kafka.lag, aiokafka": Row(consuming(partial(kafka.lag, warn=9), asynchronous=True)),
    "kafka.progress, confluent": Row(consuming(kafka.progress, asynchronous=False)),
    "kafka.progress, aiokafka": Row(consuming(kafka.progress, asynchronous=True)),
    "ldap.answers": Row(at("directory", lambda port: ldap.answers(partial(test_ldap.connect, port)))),
    "loop.tasks": Row(within(partial(loop.tasks, warn=1_000))),
    **{
        f"mysql.{make.__name__}, {name}": Row(over("mariadb", opened, make))
        for make in (mysql.writable, mysql.pool_use)
        for name, opened in {"aiomysql": clients.aiomysql_pool, "asyncmy": clients.asyncmy_pool}.items()
    },
    "mysql.replication_lag": Row(
        over("mariadb replica", clients.asyncmy_pool, partial(mysql.replication_lag, warn=1e9))
    ),
    "nats.pending": Row(pending),
    "otlp.accepts": Row(at("receiver", lambda port: otlp.accepts(f"http://127.0.0.1:{port}/v1/traces"))),
    "otlp.exports": Row(exporting),
    "otlp.queue_use": Row(queueing),
    **{
        f"postgres.{make.__name__}, {name}": Row(over("postgres", opened, make))
        for make in (postgres.writable, postgres.pool_use)
        for name, opened in {"psycopg": clients.psycopg_sync, "psycopg async": clients.psycopg_async}.items()
    },
    "postgres.pool_use, asyncpg": Row(over("postgres", clients.asyncpg_pool, postgres.pool_use)),
    "postgres.replication_lag": Row(over("standby", clients.asyncpg_pool, partial(postgres.replication_lag, warn=1e9))),
    "process.open_files": Row(within(partial(process.open_files, warn=0.99, fail=1.0))),
    "process.resident_memory": Row(within(partial(process.resident_memory, fail=1e15))),
    "process.threads": Row(within(partial(process.threads, warn=1e6))),
    "rabbitmq.backlog": Row(with_queue(lambda held, queue: rabbitmq.backlog(held, queue=queue, warn=1))),
    "rabbitmq.consumed": Row(with_queue(lambda held, queue: rabbitmq.consumed(held, queue=queue))),
    **{
        f"redis.{make.__name__}, {name}": Row(over(server, opened, partial(make, **options)))
        for server, make, options in (
            ("redis", redis.pool_use, {}),
            ("redis node", redis.cluster_state, {}),
            ("redis replica", redis.replication_lag, {"warn": 1e9}),
            ("sentinel", redis.sentinel_quorum, {"service": "orders"}),
        )
        for name, opened in {"async": clients.redis_async, "sync": clients.redis_sync}.items()
    },
    **{
        f"redis_cluster.{make.__name__}, {name}": Row(over("redis node", opened, make))
        for make in (redis_cluster.answers, redis_cluster.writable)
        for name, opened in NODE.items()
    },
    "s3.answers, boto3": Row(over("store", test_s3.synchronous, partial(s3.answers, bucket="invoices"))),
    "s3.answers, aiobotocore": Row(
        over("store", test_s3.asynchronous, partial(s3.answers, bucket="invoices", write_key="health"))
    ),
    "service.healthy": Row(at("nginx", lambda port: service.healthy(f"http://localhost:{port}/readyz"))),
    "smtp.answers, starttls": Row(at("mail by starttls", lambda port: smtp.answers("localhost", port=port, **MAIL))),
    "smtp.answers, tls": Row(
        at("mail by tls", lambda port: smtp.answers("localhost", port=port, security="tls", **MAIL))
    ),
    "sqlalchemy.pool_use, engine": Row(over("postgres", clients.engine, sqlalchemy.pool_use)),
    "sqlalchemy.pool_use, async engine": Row(over("postgres", clients.async_engine, sqlalchemy.pool_use)),
    "sqlite.answers": Row(in_file(sqlite.answers)),
    "sqlite.writable": Row(in_file(sqlite.writable)),
    "tcp.accepts": Row(at("nginx", lambda port: tcp.accepts("localhost", port=port))),
    "tls.lasts": Row(
        at("mail by tls", lambda port: tls.lasts("localhost", port=port, warn_days=2, fail_days=1, context=TRUSTING))
    ),
}
