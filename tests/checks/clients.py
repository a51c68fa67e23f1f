"""How an application holds its clients: each way opens one, gives the check of it, and closes it."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aio_pika
import aiokafka
import aiomqtt
import aiomysql
import asyncmy
import asyncpg
import celery
import confluent_kafka
import httpx2
import nats.aio.client
import paho.mqtt.client as paho
import psycopg
import psycopg_pool
import pymemcache
import pymysql
import redis
import redis.asyncio
import sqlalchemy
import sqlalchemy.ext.asyncio
import valkey
import valkey.asyncio
from kazoo.client import KazooClient
from paho.mqtt.enums import CallbackAPIVersion
from yarl import URL

from otel_health import CheckFunc
from otel_health.checks import celery as celery_check
from otel_health.checks import dbapi, etcd, kafka, memcached, mqtt, mysql, postgres, rabbitmq, zookeeper
from otel_health.checks import nats as nats_check
from otel_health.checks import redis as redis_check
from otel_health.checks import sqlalchemy as sqlalchemy_check

SILENT = logging.Logger("silent", level=logging.CRITICAL)


@asynccontextmanager
async def asyncpg_pool(port: int, **options: Any) -> AsyncIterator[asyncpg.Pool]:
    """A pool of asyncpg."""
    options = {"min_size": 0, "max_size": 2, "user": "postgres", "database": "postgres", **options}
    async with asyncpg.create_pool(host="127.0.0.1", port=port, **options) as pool:
        yield pool


@asynccontextmanager
async def psycopg_async(port: int, **options: Any) -> AsyncIterator[psycopg_pool.AsyncConnectionPool]:
    """An asynchronous pool of psycopg 3."""
    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    pool = psycopg_pool.AsyncConnectionPool(dsn, open=False, **{"min_size": 2, "max_size": 2, **options})
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def psycopg_sync(port: int, **options: Any) -> AsyncIterator[psycopg_pool.ConnectionPool]:
    """A synchronous pool of psycopg 3."""
    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    pool = psycopg_pool.ConnectionPool(dsn, open=False, **{"min_size": 2, "max_size": 2, **options})
    pool.open()
    try:
        yield pool
    finally:
        pool.close()


@asynccontextmanager
async def engine(port: int, driver: str = "postgresql+psycopg", **options: Any) -> AsyncIterator[sqlalchemy.Engine]:
    """A synchronous engine of SQLAlchemy."""
    made = sqlalchemy.create_engine(f"{driver}://{user_and_database(driver, port)}", **options)
    try:
        yield made
    finally:
        made.dispose()


@asynccontextmanager
async def async_engine(
    port: int, driver: str = "postgresql+asyncpg", **options: Any
) -> AsyncIterator[sqlalchemy.ext.asyncio.AsyncEngine]:
    """An asynchronous engine of SQLAlchemy."""
    made = sqlalchemy.ext.asyncio.create_async_engine(f"{driver}://{user_and_database(driver, port)}", **options)
    try:
        yield made
    finally:
        await made.dispose()


@asynccontextmanager
async def opening_psycopg(port: int) -> AsyncIterator[dbapi.Connect]:
    """What opens a connection of psycopg 3, for whoever asks."""
    yield lambda: closing(psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres"))


@asynccontextmanager
async def opening_pymysql(port: int) -> AsyncIterator[dbapi.Connect]:
    """What opens a connection of PyMySQL, for whoever asks."""
    yield lambda: closing(pymysql.connect(host="127.0.0.1", port=port, user="root"))


def user_and_database(driver: str, port: int) -> str:
    """What follows the driver in a URL."""
    if driver.startswith("postgresql"):
        return f"postgres@127.0.0.1:{port}/postgres"
    return f"root@127.0.0.1:{port}/mysql"


@asynccontextmanager
async def redis_async(port: int, **options: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """An asynchronous client of redis-py, with the retries that it has by default."""
    async with redis.asyncio.Redis(host="127.0.0.1", port=port, **options) as client:
        yield client


@asynccontextmanager
async def redis_sync(port: int, **options: Any) -> AsyncIterator[redis.Redis]:
    """A synchronous client of redis-py."""
    with redis.Redis(host="127.0.0.1", port=port, **options) as client:
        yield client


@asynccontextmanager
async def valkey_async(port: int, **options: Any) -> AsyncIterator[Any]:
    """An asynchronous client of valkey-py."""
    client = valkey.asyncio.Valkey(host="127.0.0.1", port=port, **options)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def valkey_sync(port: int, **options: Any) -> AsyncIterator[Any]:
    """A synchronous client of valkey-py."""
    client: Any = valkey.Valkey(host="127.0.0.1", port=port, **options)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def mysql_pool(library: Any, port: int, **options: Any) -> AsyncIterator[Any]:
    """A pool of aiomysql or asyncmy."""
    options = {"minsize": 0, "maxsize": 2, "user": "root", "db": "mysql", **options}
    pool = await library.create_pool(host="127.0.0.1", port=port, **options)
    try:
        yield pool
    finally:
        pool.close()
        await pool.wait_closed()


aiomysql_pool = partial(mysql_pool, aiomysql)
asyncmy_pool = partial(mysql_pool, asyncmy)


@asynccontextmanager
async def memcached_pool(port: int, **options: Any) -> AsyncIterator[pymemcache.PooledClient]:
    """A pooled client of pymemcache."""
    client = pymemcache.PooledClient(("127.0.0.1", port), **options)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def http_async(port: int, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """An asynchronous HTTP client."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", **options) as client:
        yield client


@asynccontextmanager
async def http_sync(port: int, **options: Any) -> AsyncIterator[httpx2.Client]:
    """A synchronous HTTP client."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", **options) as client:
        yield client


@asynccontextmanager
async def kazoo_client(port: int) -> AsyncIterator[KazooClient]:
    """A client of kazoo, started, whether it has reached a server or not; its session is short."""
    quick = {"max_tries": -1, "delay": 0.05, "max_delay": 0.1}
    client = KazooClient(hosts=f"127.0.0.1:{port}", timeout=1.0, connection_retry=quick, logger=SILENT)
    started = client.start_async()
    await asyncio.to_thread(started.wait, 1.0)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.stop)
        client.close()


@asynccontextmanager
async def amqp_robust(port: int, password: str = "guest") -> AsyncIterator[aio_pika.RobustConnection]:
    """A robust connection of aio-pika, whether it has reached a server or not; it connects again soon."""
    url = f"amqp://guest:{password}@127.0.0.1:{port}/"
    connection = aio_pika.RobustConnection(URL(url), reconnect_interval=0.1, fail_fast=False)
    connecting = asyncio.create_task(connection.connect())
    await asyncio.wait({connecting}, timeout=0.5)
    try:
        yield connection
    finally:
        await connection.close()
        connecting.cancel()


@asynccontextmanager
async def kafka_producer(port: int) -> AsyncIterator[confluent_kafka.Producer]:
    """A producer of confluent-kafka."""
    with confluent_kafka.Producer(librdkafka(port)) as client:
        yield client


@asynccontextmanager
async def kafka_consumer(port: int, group: str = "orders") -> AsyncIterator[confluent_kafka.Consumer]:
    """A consumer of confluent-kafka that has subscribed to nothing yet; it begins at the beginning.

    It commits nothing: closing it would wait for that for ever where the broker has gone.
    """
    options = {"group.id": group, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 20, "enable.auto.commit": False}
    with confluent_kafka.Consumer({**librdkafka(port), **options}) as client:
        yield client


def librdkafka(port: int) -> dict[str, Any]:
    """Settings of a client of confluent-kafka that connects again soon."""
    soon = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 100}
    return {"bootstrap.servers": f"127.0.0.1:{port}", "logger": SILENT, **soon}


@asynccontextmanager
async def aiokafka_producer(port: int) -> AsyncIterator[aiokafka.AIOKafkaProducer]:
    """A producer of aiokafka, whether it has reached a broker or not."""
    client = aiokafka.AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", retry_backoff_ms=50)
    with suppress(aiokafka.errors.KafkaError):
        await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def aiokafka_consumer(port: int, *topics: str, group: str = "shop") -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
    """A consumer of aiokafka, whether it has reached a broker or not; it begins at the beginning."""
    options: dict[str, Any] = {"bootstrap_servers": f"127.0.0.1:{port}", "retry_backoff_ms": 50}
    options |= {"group_id": group, "auto_offset_reset": "earliest", "fetch_max_wait_ms": 20}
    client = aiokafka.AIOKafkaConsumer(*topics, **options)
    with suppress(aiokafka.errors.KafkaError):
        await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def ended(task: asyncio.Task[Any]) -> None:
    """End a client's task: one cancellation is lost at times, where it comes while the client connects or closes."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def nats_client(port: int, **options: Any) -> AsyncIterator[nats.aio.client.Client]:
    """A connection of nats-py, whether it has reached a server or not; it connects again soon."""

    async def ignore(_: Exception) -> None: ...

    client = nats.aio.client.Client()
    soon: dict[str, Any] = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": -1, "error_cb": ignore}
    connecting = asyncio.create_task(client.connect(f"nats://127.0.0.1:{port}", **soon, **options))
    await asyncio.wait({connecting}, timeout=0.5)
    try:
        yield client
    finally:
        await ended(connecting)
        await client.close()


@asynccontextmanager
async def aiomqtt_client(port: int) -> AsyncIterator[aiomqtt.Client]:
    """A client of aiomqtt that connects again and again, as an application would have it do."""
    client = aiomqtt.Client("127.0.0.1", port, timeout=0.5, logger=SILENT)

    async def stay_connected() -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with client:
                    connected.set()
                    async for _ in client.messages:
                        pass
            await asyncio.sleep(0.05)

    connected = asyncio.Event()
    staying = asyncio.create_task(stay_connected())
    with suppress(TimeoutError):
        await asyncio.wait_for(connected.wait(), 0.5)
    try:
        yield client
    finally:
        await ended(staying)


@asynccontextmanager
async def paho_client(port: int) -> AsyncIterator[paho.Client]:
    """A client of paho-mqtt with its loop in a thread, whether it has reached a broker or not."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(min_delay=1, max_delay=1)
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while not client.is_connected():  # noqa: ASYNC110 - paho has nothing that a coroutine could wait for.
                await asyncio.sleep(0.01)
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()  # noqa: SLF001 - it does so once it is collected.


@asynccontextmanager
async def celery_app(port: int, scheme: str) -> AsyncIterator[celery.Celery]:
    """An app of Celery with a broker of this kind."""
    with celery.Celery("orders", broker=f"{scheme}://127.0.0.1:{port}//", set_as_current=False) as app:
        yield app
    gc.collect()  # A connection that Redis refused is a cycle that holds a descriptor.


celery_amqp = partial(celery_app, scheme="amqp")
celery_redis = partial(celery_app, scheme="redis")


@dataclass(frozen=True)
class Way:
    """One way in which an application asks a server, and what it is told when that is not there."""

    server: str
    client: Callable[..., AbstractAsyncContextManager[Any]]
    check: Callable[[Any], CheckFunc]
    refused: set[str]
    """The error types that tell of a server that is gone."""
    rubbish: set[str] = field(default_factory=set)
    """The error types that tell of a server that talks rubbish, beside those."""
    frozen: set[str] = field(default_factory=lambda: {"timeout"})
    """The error types that tell of a server that does not answer."""
    inner: int = 0
    """How many connections to its port the server holds with itself."""


ASYNCPG = {"ConnectionRefusedError", "ConnectionDoesNotExistError"}
MYSQL_RUBBISH = {"InternalError"}
HTTP = {"ConnectError", "ReadError", "RemoteProtocolError"}
KAZOO = {"failed", "ConnectionLoss"}
PYMEMCACHE = {"ConnectionRefusedError", "MemcacheUnexpectedCloseError", "ConnectionResetError"}
KAFKA_ANSWERS = partial(kafka.answers, wait=0.4)
AMQP = {"failed", "AMQPConnectionError"}
CELERY = {"OperationalError"}
CELERY_ANSWERS = partial(celery_check.answers, wait=0.4)
ANSWERS_SQL = sqlalchemy_check.answers
WAYS = {
    "asyncpg": Way("postgres", asyncpg_pool, postgres.answers, ASYNCPG, {"ConnectionError"}),
    "asyncpg-writable": Way("postgres", asyncpg_pool, postgres.writable, ASYNCPG, {"ConnectionError"}),
    "psycopg-async": Way("postgres", psycopg_async, postgres.answers, {"timeout", "OperationalError"}),
    "psycopg-sync": Way("postgres", psycopg_sync, postgres.answers, {"timeout", "OperationalError"}),
    "sqlalchemy-sync": Way("postgres", engine, ANSWERS_SQL, {"OperationalError"}),
    "sqlalchemy-async": Way(
        "postgres", async_engine, ANSWERS_SQL, {*ASYNCPG, "InterfaceError", "DBAPIError"}, {"ConnectionError"}
    ),
    "aiomysql": Way("mariadb", aiomysql_pool, mysql.answers, {"OperationalError"}, MYSQL_RUBBISH),
    "asyncmy": Way("mariadb", asyncmy_pool, mysql.answers, {"OperationalError"}, MYSQL_RUBBISH),
    "sqlalchemy-pymysql": Way(
        "mariadb", partial(engine, driver="mysql+pymysql"), ANSWERS_SQL, {"OperationalError"}, MYSQL_RUBBISH
    ),
    "sqlalchemy-asyncmy": Way(
        "mariadb", partial(async_engine, driver="mysql+asyncmy"), ANSWERS_SQL, {"OperationalError"}, MYSQL_RUBBISH
    ),
    "memcached": Way("memcached", memcached_pool, memcached.answers, PYMEMCACHE, {"MemcacheUnknownError"}),
    "dbapi-psycopg": Way("postgres", opening_psycopg, dbapi.answers, {"OperationalError"}),
    "dbapi-pymysql": Way("mariadb", opening_pymysql, dbapi.answers, {"OperationalError"}, MYSQL_RUBBISH),
    "celery-amqp": Way("rabbitmq", celery_amqp, CELERY_ANSWERS, CELERY, frozen={"OperationalError"}),
    "celery-redis": Way("redis", celery_redis, CELERY_ANSWERS, CELERY),
    "etcd-async": Way("etcd", http_async, etcd.answers, HTTP, inner=1),
    "etcd-sync": Way("etcd", http_sync, etcd.answers, HTTP, inner=1),
    "etcd-async-writable": Way("etcd", http_async, etcd.writable, HTTP, inner=1),
    "kafka-producer": Way("kafka", kafka_producer, KAFKA_ANSWERS, {"KafkaException"}, frozen={"KafkaException"}),
    "aiokafka-producer": Way("kafka", aiokafka_producer, kafka.answers, {"KafkaError"}),
    "aiokafka-consumer": Way("kafka", aiokafka_consumer, kafka.answers, {"KafkaError"}),
    "aiomqtt": Way("mosquitto", aiomqtt_client, mqtt.answers, {"MqttCodeError"}),
    "paho": Way("mosquitto", paho_client, partial(mqtt.publishes, topic="health"), {"failed"}),
    "nats": Way("nats", nats_client, nats_check.answers, {"failed"}),
    "rabbitmq": Way("rabbitmq", amqp_robust, rabbitmq.answers, AMQP),
    "zookeeper": Way(
        "zookeeper",
        kazoo_client,
        zookeeper.answers,
        {"failed", "ConnectionLoss"},
        frozen={"timeout", "ConnectionLoss"},
        inner=1,  # One that kazoo had begun when the server was killed may stay half closed there.
    ),
    "redis-async": Way("redis", redis_async, redis_check.answers, {"ConnectionError"}, {"InvalidResponse"}),
    "redis-sync": Way("redis", redis_sync, redis_check.answers, {"ConnectionError"}, {"InvalidResponse"}),
    "redis-async-writable": Way("redis", redis_async, redis_check.writable, {"ConnectionError"}, {"InvalidResponse"}),
    "redis-sync-writable": Way("redis", redis_sync, redis_check.writable, {"ConnectionError"}, {"InvalidResponse"}),
    "valkey-async": Way("redis", valkey_async, redis_check.writable, {"ConnectionError"}, {"InvalidResponse"}),
    "valkey-sync": Way("redis", valkey_sync, redis_check.writable, {"ConnectionError"}, {"InvalidResponse"}),
}
