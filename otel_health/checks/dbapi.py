"""Any database that has a driver by Python's DB-API 2.0 (PEP 249), and no check of its own here."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from otel_health.check import CheckFunc, Failed, completes, is_async


class Connection(Protocol):
    """What is used of a connection."""

    def cursor(self) -> Any: ...


Connect = Callable[[], AbstractContextManager[Connection]]
"""Gives a connection that nobody else uses meanwhile, and gets it back: `pool.connection`."""


def answers(connect: Connect, *, query: str = "SELECT 1") -> CheckFunc:
    """Return a check that the database answers a query.

    It proves that a connection can be had, that the database knows us, and that it executes; not that it takes writes.

    Most connections are not for two threads, and a check has a thread of its own: so it never takes one that the
    application holds, but asks for one, and whatever gave it gets it back. Of a pool it waits for one as every request
    does; to ask the database and nothing else, have it open one: `lambda: closing(sqlite3.connect(path))`. A connection
    that had died is replaced, once in a run. What the query began is rolled back. Cost: one such query, and a
    connection where one is opened. Every 10 s, or 30 s where one is opened, is fine.

    Args:
        connect: Called for each run, in a thread; it returns a context manager of a connection. A connection itself is
            refused, and left untouched.
        query: What is asked, in the words of the database: Oracle before 23 wants `SELECT 1 FROM dual`.

    Raises:
        TypeError: `connect` is a connection, no function, or an asynchronous one.

    Example:
        >>> checker.add("orders", dbapi.answers(pool.connection))
        >>> checker.add("ledger", dbapi.answers(lambda: closing(pymysql.connect(**settings))), interval=30.0)
    """
    if hasattr(connect, "cursor"):
        raise TypeError(f"dbapi: a {type(connect).__name__} is not for two threads; {_INSTEAD}")
    if not callable(connect) or is_async(connect):
        raise TypeError(f"dbapi: {type(connect).__name__} cannot be called for a connection; {_INSTEAD}")
    return completes(_ask, connect, query)


_INSTEAD = "pass what opens one or lends one: lambda: closing(driver.connect(...)), or pool.connection"


def _ask(connect: Connect, query: str) -> None:
    for last in (False, True):
        lent = connect()
        # A connection is a context manager too, but what that ends, if anything, differs from driver to driver.
        if hasattr(lent, "cursor") or isinstance(lent, nullcontext) or not hasattr(lent, "__exit__"):
            raise Failed(f"nothing says who closes the connection; {_INSTEAD}")
        with lent as connection:
            try:
                _execute(connection, query)
            except Exception:
                if last or not _is_dead(connection):
                    raise
            else:
                return


def _execute(connection: Any, query: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        cursor.fetchone()
    finally:
        cursor.close()
    connection.rollback()


def _is_dead(connection: object) -> bool:
    """Whether a connection says that it is closed: PEP 249 has no word for it, the drivers have these two."""
    return bool(getattr(connection, "closed", False)) or not getattr(connection, "open", True)
