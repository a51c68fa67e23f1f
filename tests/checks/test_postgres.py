"""PostgreSQL beyond what every server is put to: refusals, dead connections, full pools, standbys."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import psycopg
import pytest

from otel_health import Checker
from otel_health.checks import postgres
from otel_health.testing import assert_statuses
from tests.checks.clients import asyncpg_pool, psycopg_async, psycopg_sync
from tests.checks.conftest import Started
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, free_port, own_standby

pools = pytest.mark.parametrize("opened", [asyncpg_pool, psycopg_async, psycopg_sync])


@pytest.fixture
def server(servers: Started) -> OwnServer:
    """A PostgreSQL that the tests share."""
    return servers("postgres")


@pytest.fixture
def standby(server: OwnServer) -> Iterator[OwnServer]:
    """A standby of it."""
    with own_standby(server) as follower:
        yield follower


async def execute(server: OwnServer, *statements: str) -> None:
    """Run these as an administrator would, over a connection of their own."""
    connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", database="postgres")
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("make", [postgres.answers, postgres.writable, postgres.pool_use])
def test_what_is_no_pool_is_refused_without_being_shown(make: Any) -> None:
    """A DSN is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no pool of asyncpg or psycopg") as caught:
        make("postgresql://orders:s3cret@db/orders")

    assert "s3cret" not in str(caught.value)


@pools
async def test_connections_that_died_in_the_pool_fail_nothing(server: OwnServer, opened: Any) -> None:
    """The server ended every one of them a moment ago, and the pool cannot know yet: the next run passes at once."""
    async with opened(server.port) as pool:
        check: Any = postgres.answers(pool)
        assert (await result_of(check)).status == "pass"
        end_all(server)

        if (answer := check()) is not None:
            await answer


async def test_a_connection_that_was_told_of_its_end_before_it_ended_fails_nothing(server: OwnServer) -> None:
    """The server's last word has come, and nothing more: asyncpg then says that it is busy with it."""
    told = asyncio.Event()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, asked = await asyncio.open_connection("127.0.0.1", server.port)

        async def answer() -> None:
            while said := await answers.read(65536):
                writer.write(said)
                if b"terminating connection" in said:
                    told.set()
                    return  # That it ends as well is kept back.
            writer.close()

        answering = asyncio.create_task(answer())
        while question := await reader.read(65536):
            asked.write(question)
        await answering
        for each in (asked, writer):
            each.close()

    async with await asyncio.start_server(visit, "127.0.0.1", port := free_port()), asyncpg_pool(port) as pool:
        check = postgres.answers(pool)
        assert (await result_of(check)).status == "pass"
        await asyncio.to_thread(end_all, server)
        await told.wait()
        await asyncio.sleep(0.05)

        assert (await result_of(check)).status == "pass"


def end_all(server: OwnServer) -> None:
    """End every connection while the loop stands still: who holds one will read of its end when it is used next.

    One that a pool opens meanwhile, in a thread of its own, lives on.
    """
    others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(host="127.0.0.1", port=server.port, user="postgres", autocommit=True) as connection:
        ended = connection.execute(f"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        pids = [pid for pid, _ in ended]
        while connection.execute("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", (pids,)).rowcount:
            pass


@pytest.mark.parametrize(
    ("role", "error"),
    [
        ("no_login NOLOGIN", "InvalidAuthorizationSpecificationError"),
        ("crowded LOGIN CONNECTION LIMIT 0", "TooManyConnectionsError"),
    ],
)
async def test_a_server_that_refuses_us_is_told_by_its_error(server: OwnServer, role: str, error: str) -> None:
    """Who may not log in, and who may have no more connections, can tell from the error type."""
    name = role.split()[0]
    await execute(server, f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {role}")
    async with asyncpg_pool(server.port, user=name) as pool:
        result = await result_of(postgres.answers(pool))

    assert (result.status, result.refined_error_type) == ("fail", error)


@pools
async def test_a_full_pool_warns_and_condemns_neither_process_nor_server(server: OwnServer, opened: Any) -> None:
    """With every connection in use: `pool_use` warns, livez and readyz pass, and the server is asked beside it."""
    checker = Checker(timeout=2.0)
    async with AsyncExitStack() as stack:
        pool, beside = [await stack.enter_async_context(opened(server.port, max_size=2)) for _ in range(2)]
        checker.add("pool", postgres.pool_use(pool))
        checker.add("server", postgres.answers(beside))
        checker.add("process", lambda: True, local=True, probes={"livez"})
        assert (await becomes("pass", postgres.pool_use(pool))).observations["pool_use"] <= 0.5
        await take_all(stack, pool)

        report = await checker.run()
        await checker.run("livez")

        assert_statuses(report, {"pool": "warn", "server": "pass"})
        assert report.components["pool"].result.observations == {"pool_use": 1.0}  # type: ignore[union-attr]
        assert report.status.up
        assert checker.report("livez").status == "pass"


async def take_all(stack: AsyncExitStack, pool: Any) -> None:
    """Take both connections of this pool until the stack is unwound."""
    for _ in range(2):
        if hasattr(pool, "acquire"):
            await stack.enter_async_context(pool.acquire())
        elif hasattr(pool.connection(), "__aenter__"):
            await stack.enter_async_context(pool.connection())
        else:
            stack.enter_context(pool.connection())


async def test_who_waits_for_a_connection_counts(server: OwnServer) -> None:
    """More is wanted than there is: `pool_use` says by how much."""
    async with psycopg_async(server.port, max_size=2) as pool, AsyncExitStack() as stack:
        await take_all(stack, pool)
        waiting = postgres.answers(pool)
        checker = Checker(timeout=30.0)
        checker.add("waiting", waiting)
        await eventually(lambda: pool.get_stats()["pool_available"] == 0)
        async with checker:
            await eventually(lambda: pool.get_stats().get("requests_waiting", 0) == 1)

            assert (await result_of(postgres.pool_use(pool))).observations == {"pool_use": 1.5}


@pytest.mark.parametrize("opened", [psycopg_async, psycopg_sync])
async def test_a_pool_that_opens_its_first_connections_is_not_used_up(opened: Any) -> None:
    """Nobody has them yet: a service that starts is not told that its pool is full."""
    async with opened(free_port(), min_size=2, max_size=2) as pool:
        assert pool.get_stats()["pool_size"] == 2

        result = await result_of(postgres.pool_use(pool))

        assert (result.status, result.observations) == ("pass", {"pool_use": 0.0})


@pools
async def test_somebody_elses_aborted_transaction_is_not_ours(server: OwnServer, opened: Any) -> None:
    """The application's transaction is in ruins: the check uses another connection and passes."""
    async with opened(server.port) as pool, AsyncExitStack() as stack:
        if hasattr(pool, "acquire"):
            connection = await stack.enter_async_context(pool.acquire())
            await connection.execute("BEGIN")
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute("SELECT 1 / 0")

        assert (await result_of(postgres.answers(pool))).status == "pass"


@pools
async def test_a_standby_answers_but_takes_no_writes(server: OwnServer, standby: OwnServer, opened: Any) -> None:
    """`writable` tells the two apart, `answers` does not."""
    async with opened(server.port) as primary, opened(standby.port) as replica:
        refusal = await result_of(postgres.writable(replica))

        assert (await result_of(postgres.writable(primary))).status == "pass"
        assert (await result_of(postgres.answers(replica))).status == "pass"
        assert (refusal.status, refusal.error_type) == ("fail", "failed")
        assert refusal.message is not None
        assert "takes no writes" in refusal.message


@pools
async def test_a_replica_that_falls_behind_warns(server: OwnServer, standby: OwnServer, opened: Any) -> None:
    """No lag while it keeps up, lag once replaying is paused; a primary has none to measure."""
    async with opened(server.port) as primary, opened(standby.port) as replica:
        check = postgres.replication_lag(replica, warn=0.001, fail=3600)
        await execute(server, "CREATE TABLE IF NOT EXISTS orders (id int)", "INSERT INTO orders VALUES (1)")

        assert (await becomes("pass", check)).observations == {"lag_seconds": 0.0}
        await execute(standby, "SELECT pg_wal_replay_pause()")
        await execute(server, "INSERT INTO orders VALUES (2)")
        assert (await becomes("warn", check)).observations["lag_seconds"] > 0

        nothing = await result_of(postgres.replication_lag(primary, warn=1.0))
        assert (nothing.status, nothing.error_type) == ("fail", "failed")


async def test_a_replica_that_lost_its_primary_is_behind(server: OwnServer, standby: OwnServer) -> None:
    """Nothing is left to replay, but nothing comes in either: that is no "up to date"."""
    async with asyncpg_pool(standby.port) as replica:
        check = postgres.replication_lag(replica, warn=0.001)
        await execute(server, "CREATE TABLE IF NOT EXISTS orders (id int)", "INSERT INTO orders VALUES (1)")
        await becomes("pass", check)
        await execute(standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")

        assert (await becomes("warn", check)).observations["lag_seconds"] > 0
