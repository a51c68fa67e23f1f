"""Servers that have no connection left: a client that needs one is told so, in time, and is well again afterwards."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg
import pymysql
import pytest

from tests.checks.clients import WAYS, amqp_robust, nats_client
from tests.checks.conftest import Started
from tests.checks.results import result_of
from tests.checks.test_faults import passes_again, probing
from tests.servers import OwnServer, RabbitMQ, own_memcached, own_nats

MOST = 300
"""Connections that no server here allows."""

FEW = 64
"""Connections that Memcached is given; it needs some files of its own."""


def postgres(port: int) -> Any:
    """A connection to PostgreSQL, which keeps some for whoever administrates it: as this one does."""
    return psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres")


def mariadb(port: int) -> Any:
    """A connection to MariaDB."""
    return pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True)


@contextmanager
def used_up(port: int, connect: Callable[[int], Any]) -> Iterator[None]:
    """Take every connection that there is."""
    with ExitStack() as stack:
        with pytest.raises((psycopg.OperationalError, pymysql.OperationalError), match=r"(?i)too many"):
            take_all(stack, port, connect)
        yield


def take_all(stack: ExitStack, port: int, connect: Callable[[int], Any]) -> None:
    """Take more connections than there are."""
    for _ in range(MOST):
        stack.enter_context(closing(connect(port)))


@contextmanager
def few(server: OwnServer) -> Iterator[None]:
    """Let MariaDB have as few connections as it may."""
    with closing(mariadb(server.port)) as administrator:
        cursor = administrator.cursor()
        cursor.execute("SELECT @@GLOBAL.max_connections")
        (usual,) = cursor.fetchone()
        cursor.execute("SET GLOBAL max_connections = 10")
        try:
            yield
        finally:
            cursor.execute(f"SET GLOBAL max_connections = {usual}")


POSTGRES = {
    "asyncpg": {"TooManyConnectionsError"},
    "psycopg-sync": {"timeout"},
    "sqlalchemy-async": {"TooManyConnectionsError", "DBAPIError"},
    "dbapi-psycopg": {"OperationalError"},
}


@pytest.mark.parametrize("name", POSTGRES)
async def test_a_postgres_without_connections(servers: Started, name: str) -> None:
    """The driver's word for it; only psycopg's pool hides it behind its waiting."""
    server = servers("postgres")
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, used_up(server.port, postgres))
        async with probing(WAYS[name], server.port, inner=MOST) as probe:
            assert await probe.error() in POSTGRES[name]
            await asyncio.to_thread(stack.close)
            await passes_again(probe)


@pytest.mark.parametrize("name", ["asyncmy", "sqlalchemy-pymysql", "dbapi-pymysql"])
async def test_a_mariadb_without_connections(servers: Started, name: str) -> None:
    """Error 1040 is an OperationalError in every driver."""
    server = servers("mariadb")
    with few(server), ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, used_up(server.port, mariadb))
        async with probing(WAYS[name], server.port, inner=MOST) as probe:
            assert await probe.error() == "OperationalError"
            await asyncio.to_thread(stack.close)
            await passes_again(probe)


async def test_a_memcached_without_connections() -> None:
    """It says so in a line that is no answer to what was asked, which pymemcache has a name for."""
    with own_memcached("-c", str(FEW), "-t", "1") as server, ExitStack() as stack:
        for _ in range(FEW):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        async with probing(WAYS["memcached"], server.port, inner=MOST) as probe:
            assert await probe.error() == "MemcacheUnknownCommandError"
            stack.close()
            await passes_again(probe)


@contextmanager
def nobody_let_in(server: OwnServer) -> Iterator[None]:
    """Have RabbitMQ take no connection more."""
    assert isinstance(server, RabbitMQ)
    server.control("set_vhost_limits", '{"max-connections": 0}')
    try:
        yield
    finally:
        server.control("clear_vhost_limits")


@pytest.mark.parametrize(("name", "told"), [("rabbitmq", "failed"), ("celery-amqp", "NotAllowed")])
async def test_a_rabbitmq_without_connections(servers: Started, name: str, told: str) -> None:
    """The client that connects for each question has its word for it; a connection that is there goes on."""
    server = servers("rabbitmq")
    async with amqp_robust(server.port) as held:
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, nobody_let_in(server))
            # What aio-pika opened and was refused, it lets go of in its own time.
            async with probing(WAYS[name], server.port, inner=100) as probe:
                assert await probe.error() == told
                assert (await result_of(WAYS["rabbitmq"].check(held))).status == "pass"
                await asyncio.to_thread(stack.close)
                await passes_again(probe)


async def test_a_nats_without_connections() -> None:
    """Who is let in stays, and who is not tries again until somebody leaves."""
    with own_nats(configuration="max_connections: 1", jetstream=False) as server:
        async with nats_client(server.port) as held, probing(WAYS["nats"], server.port) as probe:
            assert await probe.error() == "failed"
            assert (await result_of(WAYS["nats"].check(held))).status == "pass"
            await held.close()
            await passes_again(probe)
