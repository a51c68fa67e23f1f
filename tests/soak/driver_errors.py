"""Every driver that a check is proven with, failing as drivers do: at a closed port, and at a server of another kind.

What they are given holds a secret wherever one belongs: in an address, beside it, in a header.
"""

import asyncio
import smtplib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import quote

import aio_pika
import aiobotocore.session
import aiokafka
import aiomqtt
import aiomysql
import asyncmy
import boto3
import celery
import confluent_kafka
import grpc
import ldap3
import nats
import paho.mqtt.client as paho
import psycopg
import pymemcache
import pymysql
import redis.cluster
import sqlalchemy
import sqlalchemy.ext.asyncio
import valkey
import valkey.asyncio
from aiobotocore.config import AioConfig
from botocore.config import Config
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry
from paho.mqtt.enums import CallbackAPIVersion

from otel_health import CheckFunc, completes
from otel_health.checks import celery as celery_check
from otel_health.checks import dns, environment, http, kafka, ldap, otlp, s3, service, smtp, tcp, tls
from otel_health.checks import grpc as grpc_check

HERE: Final = "127.0.0.1"
SECONDS: Final = 0.5
"""How long a driver may try."""


class Secret(Protocol):
    """What is planted."""

    @property
    def secret(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def closed(self) -> int: ...
    @property
    def refusing(self) -> int: ...
    def url(self, scheme: str, host: str = ..., port: int = ...) -> str: ...


def checks(p: Secret, user: str, *, all_of_them: bool) -> dict[str, CheckFunc]:
    """Return a check for each driver and each server that is none; those that are slow to fail only if wanted."""
    kinds = [databases, messaging, network, ill_written, *([unhurried] if all_of_them else [])]
    return {
        f"{name}, {where}": completes(check)
        for where, port in (("closed", p.closed), ("refusing", p.refusing))
        for kind in kinds
        for name, check in kind(p, user, port).items()
    }


async def soon(awaitable: Awaitable[Any]) -> Any:
    """What comes of it, for those that know no time limit of their own."""
    async with asyncio.timeout(SECONDS):
        return await awaitable


def databases(p: Secret, user: str, port: int) -> dict[str, CheckFunc]:
    """Drivers of databases and caches."""
    mysql: Any = {"host": HERE, "port": port, "user": user, "password": p.secret}
    connecting: Any = {"connect_timeout": 1}

    valkey_async: Any = valkey.asyncio.Valkey

    async def async_engine(url: str) -> None:
        engine = sqlalchemy.ext.asyncio.create_async_engine(url)
        try:
            async with engine.connect():
                pass
        finally:
            await engine.dispose()

    return {
        "psycopg": lambda: psycopg.connect(p.url("postgresql", HERE, port), connect_timeout=1).close(),
        "psycopg wrong option": lambda: psycopg.connect(f"{p.url('postgresql', HERE, port)}?passwrd={p.token}").close(),
        "psycopg words": lambda: psycopg.connect(f"host={HERE} port={port} passwort='{p.token}'").close(),
        "pymysql": lambda: pymysql.connect(**mysql, **connecting, read_timeout=1).close(),
        "aiomysql": lambda: soon(aiomysql.connect(**mysql, **connecting)),
        "asyncmy": lambda: soon(asyncmy.connect(**mysql, **connecting)),
        "sqlalchemy": lambda: sqlalchemy.create_engine(p.url("postgresql+psycopg", HERE, port)).connect().close(),
        "sqlalchemy async": lambda: async_engine(p.url("postgresql+asyncpg", HERE, port)),
        "sqlalchemy no url": lambda: sqlalchemy.create_engine(f"//{user}:{p.token}@{HERE}").connect().close(),
        "sqlalchemy no driver": lambda: sqlalchemy.create_engine(p.url("postgrsql", HERE, port)).connect().close(),
        "valkey": lambda: valkey.Valkey.from_url(p.url("valkey", HERE, port), socket_timeout=SECONDS).ping(),
        "valkey async": lambda: valkey_async.from_url(p.url("valkey", HERE, port), socket_timeout=SECONDS).ping(),
        "redis cluster": lambda: redis.cluster.RedisCluster.from_url(
            p.url("redis", HERE, port), socket_timeout=SECONDS, cluster_error_retry_attempts=0
        ).close(),
        "pymemcache": lambda: pymemcache.Client((HERE, port), timeout=SECONDS).get(f"session:{p.token}"),
    }


def messaging(p: Secret, user: str, port: int) -> dict[str, CheckFunc]:
    """Clients of brokers."""

    async def amqp(url: str) -> None:
        await (await aio_pika.connect(url, timeout=SECONDS)).close()

    async def over_nats(url: str) -> None:
        async def ignore(_: Exception) -> None: ...

        await (
            await soon(nats.connect(url, max_reconnect_attempts=1, reconnect_time_wait=0.01, error_cb=ignore))
        ).close()

    async def over_mqtt() -> None:
        async with aiomqtt.Client(HERE, port, username=user, password=p.secret, timeout=SECONDS):
            pass

    async def over_aiokafka() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=f"{HERE}:{port}",
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username=user,
            sasl_plain_password=p.secret,
            request_timeout_ms=500,
        )
        try:
            await producer.start()
        finally:
            await producer.stop()

    def over_confluent(**options: str) -> None:
        settings: dict[str, Any] = {"bootstrap.servers": f"{HERE}:{port}", "log_level": 0, **options}
        with confluent_kafka.Producer(settings) as producer:
            kafka.answers(producer, wait=0.2)()

    def over_paho() -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set(user, p.secret)
        client.connect(HERE, port)

    def over_celery() -> None:
        with celery.Celery("orders", broker=p.url("amqp", HERE, port), set_as_current=False) as app:
            celery_check.answers(app, wait=SECONDS)()

    sasl = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": user}
    return {
        "aio-pika": lambda: amqp(p.url("amqp", HERE, port)),
        "aio-pika slash in password": lambda: amqp(f"amqp://{user}:{p.token}/x@{HERE}:{port}/"),
        "nats": lambda: over_nats(p.url("nats", HERE, port)),
        "nats no scheme": lambda: over_nats(f"{user}:{p.token}@{HERE}:{port}"),
        "aiomqtt": over_mqtt,
        "paho": over_paho,
        "aiokafka": over_aiokafka,
        "confluent": lambda: over_confluent(**sasl, **{"sasl.password": p.secret}),
        "confluent no such option": lambda: over_confluent(**{f"sasl.password={p.token}": "x"}),
        "confluent wrong value": lambda: over_confluent(**{"sasl.oauthbearer.config": p.token, "acks": p.token}),
        "celery": over_celery,
    }


def network(p: Secret, user: str, port: int) -> dict[str, CheckFunc]:
    """Our own checks of the network, and clients of services."""
    bearer = {"Authorization": f"Bearer {p.token}"}
    site = f"http://{HERE}:{port}"
    query = f"?api_key={quote(p.secret, safe='')}"

    signing_in: Any = smtp.answers(HERE, port=port, user=user, password=p.token)

    def over_smtplib() -> None:
        with smtplib.SMTP(HERE, port, timeout=SECONDS) as server:
            server.login(user, p.token)

    def over_ldap3() -> None:
        server = ldap3.Server(HERE, port, connect_timeout=1)
        bound = ldap.answers(
            lambda: ldap3.Connection(
                server, f"cn={user}", p.secret, auto_bind=True, client_strategy=ldap3.SAFE_SYNC, receive_timeout=1
            ),
            base="dc=test",
        )
        bound()

    async def over_grpc() -> None:
        # A metadata value that cannot be sent is named in the error.
        async with grpc.aio.insecure_channel(f"{HERE}:{port}") as channel:
            call = channel.unary_unary(grpc_check.METHOD)
            await call(b"", metadata=(("authorization", f"Bearer {p.token}\n"),), timeout=SECONDS)

    async def over_grpc_plainly() -> None:
        async with grpc.aio.insecure_channel(f"{HERE}:{port}") as channel:
            call = channel.unary_unary(grpc_check.METHOD)
            await call(b"", metadata=(("authorization", f"Bearer {p.token}"),), timeout=SECONDS)

    return {
        "http": http.answers(f"{site}/{query}", headers=bearer),
        "service": service.healthy(f"{site}/readyz{query}", headers=bearer),
        "otlp": otlp.accepts(f"{site}/v1/traces", headers=bearer),
        "tcp": tcp.accepts(HERE, port=port),
        "tls": tls.lasts(HERE, port=port, server_name=f"{p.token}.internal"),
        "smtp": lambda: soon(signing_in()),
        "smtplib": over_smtplib,
        "ldap3": over_ldap3,
        "grpc": over_grpc,
        "grpc plainly": over_grpc_plainly,
    }


def ill_written(p: Secret, user: str, port: int) -> dict[str, CheckFunc]:
    """Our own checks of the network, and the calls below them, at hosts and addresses where no secret belongs."""
    host, site = f"{user}:{p.token}@{HERE}", p.url("http", HERE, port)
    # The resolver asks nobody for these: the one is no name, the other cannot be encoded.
    no_name, too_long = f"{user}:{p.token}@shop.invalid", f"{p.token * 5}.{host}"
    made: dict[str, Callable[[], CheckFunc]] = {
        "dns": lambda: dns.resolves(host),
        "tcp": lambda: tcp.accepts(host, port=port),
        "tls": lambda: tls.lasts(host, port=port),
        "tls server name": lambda: tls.lasts(HERE, port=port, server_name=host),
        "smtp": lambda: smtp.answers(host, port=port),
        "http": lambda: http.answers(site),
        "http slash in password": lambda: http.answers(f"http://{user}:{p.token}/x@{HERE}:{port}/"),
        "service": lambda: service.healthy(site),
        "otlp": lambda: otlp.accepts(site),
        "environment": lambda: environment.complete({f"API_KEY={p.token}"}),
    }
    return {
        **{f"{name}, ill-written": _making(make) for name, make in made.items()},
        "getaddrinfo": completes(socket.getaddrinfo, no_name, port),
        "getaddrinfo too long": completes(socket.getaddrinfo, too_long, port),
        "open_connection": lambda: soon(asyncio.open_connection(no_name, port)),
    }


def _making(make: Callable[[], CheckFunc]) -> CheckFunc:
    """A check that fails as its own making does."""

    def check() -> None:
        make()

    return check


def unhurried(p: Secret, user: str, port: int) -> dict[str, CheckFunc]:
    """Clients that take long to be made, or to give up."""
    keys = {"aws_access_key_id": user, "aws_secret_access_key": p.secret, "region_name": "eu-west-1"}
    once = {"retries": {"total_max_attempts": 1}, "connect_timeout": 1, "read_timeout": 1}

    def over_boto3() -> None:
        client = boto3.client("s3", endpoint_url=f"http://{HERE}:{port}", config=Config(**once), **keys)
        s3.answers(client, bucket="orders")()

    async def over_aiobotocore() -> None:
        session = aiobotocore.session.get_session()
        site = f"http://{HERE}:{port}"
        async with session.create_client("s3", endpoint_url=site, config=AioConfig(**once), **keys) as client:
            await s3.answers(client, bucket="orders")()  # type: ignore[misc]

    def over_kazoo() -> None:
        once_only = KazooRetry(max_tries=0)
        credentials = [("digest", f"{user}:{p.token}")]
        client = KazooClient(f"{HERE}:{port}", timeout=SECONDS, connection_retry=once_only, auth_data=credentials)
        try:
            client.start(timeout=SECONDS)
        finally:
            client.stop()
            client.close()

    return {
        "boto3": over_boto3,
        "aiobotocore": over_aiobotocore,
        "kazoo": over_kazoo,
        "dns": dns.resolves(f"{p.token}.invalid"),
        "tcp by name": tcp.accepts(f"{p.token}.invalid", port=port),
        "http by name": http.answers(f"http://{p.token}.invalid:{port}/"),
    }
