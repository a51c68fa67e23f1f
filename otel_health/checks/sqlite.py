"""SQLite, by the path of its file."""

import sqlite3
from contextlib import closing
from os import PathLike, fspath
from pathlib import Path

from otel_health.check import CheckFunc, completes


def answers(path: str | PathLike[str]) -> CheckFunc:
    """Return a check that the file is there, and is a database that can be read.

    It opens the file for itself, since connections of SQLite are not for two threads, and never creates one. It does
    not read all of it, so a page that is damaged may go unseen. Cost: opening a file and reading a page. Every 10 s is
    fine.

    Raises:
        ValueError: It is no path of a file: a database in memory cannot be reached from outside.

    Example:
        >>> checker.add("database", sqlite.answers("/var/lib/orders/orders.db"))
    """
    return completes(_execute, _uri(path), ("PRAGMA schema_version",))


def writable(path: str | PathLike[str]) -> CheckFunc:
    """Return a check that a transaction that writes can begin: nobody holds the lock for long.

    It takes the lock and lets it go, and writes nothing, so it does not prove that there is space. Other writers wait
    meanwhile, for less than a millisecond. A lock that is held is waited for up to 5 s, or the deadline if that is
    sooner. Cost: opening a file and a lock. Every 10 s is fine.

    Raises:
        ValueError: It is no path of a file.

    Example:
        >>> checker.add("database", sqlite.writable("/var/lib/orders/orders.db"))
    """
    return completes(_execute, _uri(path), ("BEGIN IMMEDIATE", "ROLLBACK"))


def _execute(uri: str, statements: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def _uri(path: str | PathLike[str]) -> str:
    if not isinstance(path, str | PathLike):
        raise TypeError(
            f"sqlite: {type(path).__name__} is no path of a file; give the path, which is opened for each run"
        )
    named = fspath(path)
    if not named or ":memory:" in named or "://" in named or named.startswith("file:"):
        raise ValueError(
            "sqlite: a URL, or a database in memory, is no path of a file; give the path alone, without a scheme"
        )
    return f"{Path(named).absolute().as_uri()}?mode=rw"
