"""MySQL beyond what every server is put to: refusals, dead connections, full pools, replicas (of MariaDB)."""

import asyncio
from contextlib import AsyncExitStack, closing
from typing import Any

import asyncmy
import pymysql
import pytest

from otel_health import Checker
from otel_health.checks import mysql
from otel_health.testing import assert_statuses
from tests.checks.clients import aiomysql_pool, asyncmy_pool
from tests.checks.conftest import Started
from tests.checks.results import PATIENCE, becomes, result_of
from tests.servers import OwnServer, own_mariadb

pools = pytest.mark.parametrize("opened", [aiomysql_pool, asyncmy_pool], ids=["aiomysql", "asyncmy"])


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A MariaDB that the tests share."""
    return servers("mariadb")


async def execute(server: OwnServer, *statements: str) -> list[Any]:
    """Run these as an administrator would, over a connection of their own; return the rows of the last."""
    rows: list[Any] = []
    connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root", autocommit=True)
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            rows = list(await cursor.fetchall() or ())
    finally:
        await connection.ensure_closed()
    return rows


@pytest.mark.parametrize("make", [mysql.answers, mysql.writable, mysql.pool_use])
def test_what_is_no_pool_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no pool of asyncmy or aiomysql") as caught:
        make("mysql://orders:s3cret@db/orders")

    assert "s3cret" not in str(caught.value)


@pools
async def test_a_connection_that_died_in_the_pool_fails_nothing(server: OwnServer, opened: Any) -> None:
    """The server ended it a moment ago, and the pool cannot know yet: the next run passes at once."""
    async with opened(server.port, maxsize=1) as pool:
        check: Any = mysql.answers(pool)
        await check()
        async with pool.acquire() as connection:
            mine = connection.thread_id()
        kill(server, mine)

        await check()


def kill(server: OwnServer, connection: int) -> None:
    """End a connection while the loop stands still: who holds it will read of its end when it is used next."""
    with closing(pymysql.connect(host="127.0.0.1", port=server.port, user="root")) as administrator:
        cursor = administrator.cursor()
        administrator.kill(connection)
        while cursor.execute("SELECT id FROM information_schema.processlist WHERE id = %s", (connection,)):
            pass


@pools
async def test_a_server_that_refuses_us_is_told_by_its_error(server: OwnServer, opened: Any) -> None:
    """A wrong password, and one connection too many, fail as `OperationalError`; the password is not repeated."""
    await execute(server, "CREATE OR REPLACE USER orders@'127.0.0.1' IDENTIFIED BY 'right' WITH MAX_USER_CONNECTIONS 1")
    async with opened(server.port, user="orders", password="s3cret", db=None) as pool:
        refused = await result_of(mysql.answers(pool))
    async with (
        opened(server.port, user="orders", password="right", db=None) as pool,
        pool.acquire(),
    ):
        crowded = await result_of(mysql.answers(pool))

    assert (refused.status, refused.refined_error_type) == ("fail", "OperationalError")
    assert (crowded.status, crowded.refined_error_type) == ("fail", "OperationalError")
    assert "s3cret" not in str(refused)


@pools
async def test_a_full_pool_warns_and_condemns_nothing(server: OwnServer, opened: Any) -> None:
    """Both connections are taken: `pool_use` warns, and the server is asked beside the pool."""
    checker = Checker(timeout=2.0)
    async with opened(server.port) as pool, opened(server.port) as beside, AsyncExitStack() as stack:
        checker.add("pool", mysql.pool_use(pool))
        checker.add("server", mysql.answers(beside))
        assert (await result_of(mysql.pool_use(pool))).observations == {"pool_use": 0.0}
        for _ in range(2):
            await stack.enter_async_context(pool.acquire())

        assert_statuses(await checker.run(), {"pool": "warn", "server": "pass"})


@pools
async def test_a_server_that_is_read_only_answers_but_takes_no_writes(server: OwnServer, opened: Any) -> None:
    """`writable` tells, `answers` does not."""
    async with opened(server.port) as pool:
        assert (await result_of(mysql.writable(pool))).status == "pass"
        await execute(server, "SET GLOBAL read_only = ON")
        try:
            refusal = await result_of(mysql.writable(pool))
            assert (await result_of(mysql.answers(pool))).status == "pass"
        finally:
            await execute(server, "SET GLOBAL read_only = OFF")

    assert (refusal.status, refusal.message) == ("fail", "the server takes no writes: it is read-only")


async def test_a_replica_that_lags_warns_and_one_that_stopped_fails() -> None:
    """No lag while it keeps up; behind while a table is locked; failing once it stops; nothing on a primary."""
    with own_mariadb("--server-id=1", "--log-bin") as primary, own_mariadb("--server-id=2") as replica:
        await execute(primary, "CREATE DATABASE shop", "CREATE TABLE shop.orders (id INT)")
        source = f"MASTER_HOST = '127.0.0.1', MASTER_PORT = {primary.port}, MASTER_USER = 'root'"
        await execute(replica, f"CHANGE MASTER TO {source}, MASTER_USE_GTID = slave_pos", "START REPLICA")
        arrived = "SELECT 1 FROM information_schema.tables WHERE table_schema = 'shop'"
        async with asyncio.timeout(PATIENCE):
            while not await execute(replica, arrived):
                pass
        for opened in (aiomysql_pool, asyncmy_pool):
            async with opened(replica.port) as pool:
                check = mysql.replication_lag(pool, warn=1, fail=3600)
                assert (await becomes("pass", check)).observations == {"lag_seconds": 0.0}

                async with pool.acquire() as holder, holder.cursor() as cursor:
                    await cursor.execute("LOCK TABLES shop.orders WRITE")
                    await execute(primary, "INSERT INTO shop.orders VALUES (1)")
                    assert (await becomes("warn", check)).observations["lag_seconds"] >= 1
                    await cursor.execute("UNLOCK TABLES")

                await execute(replica, "STOP REPLICA")
                assert "does not replicate" in str((await result_of(check)).message)
                await execute(replica, "START REPLICA")
        async with asyncmy_pool(primary.port) as pool:
            assert "no replica" in str((await result_of(mysql.replication_lag(pool, warn=1))).message)
