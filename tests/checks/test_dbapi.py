"""Databases by DB-API 2.0, beyond what every server is put to: whose connections are asked, and what they become."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from otel_health.checks import dbapi
from tests.checks.clients import opening_psycopg, opening_pymysql, psycopg_sync
from tests.checks.conftest import Started
from tests.checks.results import result_of
from tests.checks.test_postgres import execute
from tests.checks.test_sqlalchemy import END_ALL

Opened = Callable[[int], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def opening_sqlite(_: int) -> AsyncIterator[dbapi.Connect]:
    """What opens a connection of sqlite3, for whoever asks."""
    yield lambda: closing(sqlite3.connect(":memory:"))


DRIVERS = [("postgres", opening_psycopg), ("mariadb", opening_pymysql), (None, opening_sqlite)]
drivers = pytest.mark.parametrize(("server", "opened"), DRIVERS, ids=["psycopg", "pymysql", "sqlite"])


@drivers
async def test_a_query_of_ones_own_is_asked(servers: Started, server: str | None, opened: Opened) -> None:
    """Each driver executes it; what it refuses fails, by the driver's word for it."""
    async with opened(servers(server).port if server else 0) as connect:
        passing = await result_of(dbapi.answers(connect, query="SELECT 2"))
        failing = await result_of(dbapi.answers(connect, query="SELECT 1 FROM no_such_table"))

    assert passing.status == "pass"
    assert (failing.status, failing.refined_error_type) in {
        ("fail", "UndefinedTable"), ("fail", "OperationalError"), ("fail", "ProgrammingError")
    }  # fmt: skip


async def test_a_server_that_refuses_us_is_told(servers: Started) -> None:
    """By the driver's word for it, without the password."""
    opened = partial(psycopg.connect, host="127.0.0.1", port=servers("postgres").port, user="nobody", password="s3cret")
    result = await result_of(dbapi.answers(lambda: closing(opened(dbname="postgres"))))

    assert (result.status, result.refined_error_type) == ("fail", "OperationalError")
    assert "s3cret" not in str(result)


@pytest.mark.parametrize("shared", [lambda held: held, nullcontext], ids=["itself", "for nothing"])
async def test_a_connection_that_the_application_holds_is_left_alone(
    shared: Callable[[sqlite3.Connection], Any],
) -> None:
    """Given by accident it is refused: neither used, in another thread, nor closed."""
    with closing(sqlite3.connect(":memory:")) as held:
        held.execute("CREATE TABLE orders (id)")
        held.execute("INSERT INTO orders VALUES (1)")
        result = await result_of(dbapi.answers(lambda: shared(held)))

        assert (result.status, result.refined_error_type) == ("fail", "failed")
        assert "who closes the connection" in (result.message or "")
        assert held.in_transaction


async def test_what_lends_nothing_fails() -> None:
    """As what opens asynchronous connections does; the message says what is wanted."""
    result = await result_of(dbapi.answers(object))  # type: ignore[arg-type]

    assert "lambda: closing(driver.connect(...)), or pool.connection" in (result.message or "")


def test_what_cannot_be_asked_for_a_connection_is_refused() -> None:
    """A connection, an address or a coroutine function: at once, and without being shown."""

    async def connect() -> None: ...

    with (
        closing(sqlite3.connect(":memory:")) as held,
        pytest.raises(TypeError, match="a Connection is not for two threads"),
    ):
        dbapi.answers(held)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="function cannot be called for a connection"):
        dbapi.answers(connect)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str cannot be called") as refused:
        dbapi.answers("postgresql://orders:s3cret@db")  # type: ignore[arg-type]

    assert "s3cret" not in str(refused.value)


async def test_a_connection_that_died_in_the_pool_fails_nothing(servers: Started) -> None:
    """It is replaced, once, in the same run."""
    server = servers("postgres")
    async with psycopg_sync(server.port, min_size=1, max_size=1) as pool:
        check = dbapi.answers(pool.connection)
        assert (await result_of(check)).status == "pass"
        await execute(server, END_ALL)

        assert (await result_of(check)).status == "pass"


async def test_nothing_is_left_in_a_transaction(servers: Started) -> None:
    """Not even where the pool itself would leave it there."""
    with closing(psycopg.connect(host="127.0.0.1", port=servers("postgres").port, user="postgres")) as pooled:

        @contextmanager
        def lent() -> Iterator[psycopg.Connection]:
            yield pooled

        result = await result_of(dbapi.answers(lent))

        assert result.status == "pass"
        assert pooled.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_what_was_opened_is_closed_even_where_the_query_fails(tmp_path: Path) -> None:
    """Each run closes what it has opened."""
    opened: list[sqlite3.Connection] = []

    def connect() -> AbstractContextManager[sqlite3.Connection]:
        opened.append(sqlite3.connect(tmp_path / "orders", check_same_thread=False))
        return closing(opened[-1])

    for query in ("SELECT 1", "SELECT nonsense"):
        await result_of(dbapi.answers(connect, query=query))

    assert len(opened) == 2
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
