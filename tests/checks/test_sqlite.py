"""SQLite: files that are there, are not there, are none, or are locked."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_health import Checker
from otel_health.checks import sqlite
from tests.checks.results import result_of

both = pytest.mark.parametrize("make", [sqlite.answers, sqlite.writable])


@pytest.fixture(params=["delete", "wal"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database in a file whose name wants quoting."""
    path = tmp_path / "orders 100%?.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE orders (id INTEGER)")
    return path


@both
async def test_it_passes_and_leaves_no_descriptor(make: Any, database: Path) -> None:
    """A thousand runs open the file and close it."""
    check = make(database)
    assert (await result_of(check)).status == "pass"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        check()

    assert len(os.listdir("/proc/self/fd")) == before


@both
async def test_a_file_that_is_not_there_fails_and_is_not_made(make: Any, tmp_path: Path) -> None:
    """Asking must not create what is asked for."""
    result = await result_of(make(str(tmp_path / "orders.db")))

    assert (result.status, result.refined_error_type) == ("fail", "OperationalError")
    assert os.listdir(tmp_path) == []


@both
async def test_a_file_that_is_no_database_fails(make: Any, tmp_path: Path) -> None:
    """Rubbish is told by its error type."""
    (tmp_path / "orders.db").write_bytes(os.urandom(8192))

    result = await result_of(make(tmp_path / "orders.db"))

    assert (result.status, result.refined_error_type) == ("fail", "DatabaseError")


async def test_a_lock_that_is_held_fails_the_writer_by_its_deadline(database: Path) -> None:
    """Somebody writes and does not stop: reading passes, writing does not, and passes once they have stopped."""
    checker = Checker(timeout=0.3, ttl=0.001)
    checker.add("it", sqlite.writable(database))
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert (await result_of(sqlite.answers(database))).status == "pass"
        assert (await checker.run()).components["it"].error_type == "timeout"
        writer.execute("ROLLBACK")

    assert (await result_of(sqlite.writable(database))).status == "pass"


async def test_our_lock_does_not_outlive_the_run(database: Path) -> None:
    """After a run others may write at once."""
    assert (await result_of(sqlite.writable(database))).status == "pass"

    with closing(sqlite3.connect(database, timeout=0)) as writer:
        writer.execute("INSERT INTO orders VALUES (1)")


@both
@pytest.mark.parametrize("path", ["", ":memory:", "sqlite:///orders.db", "file:orders.db?mode=memory"])
def test_what_is_no_path_is_refused(make: Any, path: str) -> None:
    """A URL, or a database that only its own connection sees."""
    with pytest.raises(ValueError, match="is no path of a file"):
        make(path)


@both
def test_a_connection_is_refused(make: Any) -> None:
    """It is not for two threads, and so cannot be asked by a check."""
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(TypeError, match="Connection is no path"):
        make(connection)
