"""MySQL and MariaDB, through the pool of asyncmy or aiomysql that the application holds.

For PyMySQL and mysqlclient, which have no pool of their own, see `otel_health.checks.sqlalchemy`.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from otel_health.check import CheckFunc, Failed, completes, require_shares
from otel_health.compose import threshold

_LOST: Final = {2006, 2013}
"""What clients say of a connection that is gone: CR_SERVER_GONE_ERROR, CR_SERVER_LOST."""


class Pool(Protocol):
    """What is used of a pool of asyncmy or aiomysql."""

    @property
    def size(self) -> int: ...
    @property
    def freesize(self) -> int: ...
    @property
    def maxsize(self) -> int: ...
    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


def answers(pool: Pool) -> CheckFunc:
    """Return a check that MySQL answers a query, on a connection of this pool.

    It proves that a connection can be had, that the server knows us, and that it executes. It does not prove that it
    takes writes (`writable`). It waits for a connection as every request does: where the pool is exhausted it is late,
    as they are (`pool_use` warns before). To ask the server and nothing else, give it a pool of its own.

    A connection that had died in the pool is replaced, once in a run. Cost: one `SELECT 1`. Every 10 s is fine.

    Raises:
        TypeError: It is no such pool.

    Example:
        >>> checker.add("mysql", mysql.answers(pool))
    """
    _require_pool(pool)
    return completes(_row, pool, "SELECT 1 AS one")


def writable(pool: Pool) -> CheckFunc:
    """Return a check that the server takes writes: `read_only` is off.

    It writes nothing, so it proves neither that there is space nor that you may write to a table. Cost: one query on
    a variable. Every 10 s is fine.

    Raises:
        TypeError: It is no such pool.

    Example:
        >>> checker.add("mysql-primary", mysql.writable(pool))
    """
    _require_pool(pool)

    async def check() -> None:
        row = await _row(pool, "SELECT @@global.read_only AS read_only")
        if row is None or row["read_only"] not in {0, "0", "OFF"}:
            raise Failed("the server takes no writes: it is read-only")

    return check


def replication_lag(replica: Pool, *, warn: float, fail: float | None = None) -> CheckFunc:
    """Return a check that a replica is not too far behind its primary; observes `lag_seconds`.

    A replica that does not replicate fails, and so does a server that is no replica. It needs the privilege
    `REPLICA MONITOR` (MariaDB) or `REPLICATION CLIENT` (MySQL), and MariaDB 10.5 or MySQL 8.0.22. Of several sources
    it looks at the first. Cost: one `SHOW REPLICA STATUS`. Every 10 s is fine.

    Args:
        replica: A pool of connections to the replica.
        warn: Whole seconds of lag from which it warns.
        fail: Whole seconds of lag from which it fails; never, if you do not say.

    Raises:
        TypeError: It is no such pool.
        ValueError: The limits make no sense.

    Example:
        >>> checker.add("replica-lag", mysql.replication_lag(replica, warn=5, fail=60), critical=False)
    """
    _require_pool(replica)

    async def measure() -> float:
        row = await _row(replica, "SHOW REPLICA STATUS")
        if row is None:
            raise Failed("there is no lag to measure: this server is no replica")
        # Seconds_Behind_Master, or _Source.
        lag = next(value for column, value in row.items() if column.startswith("Seconds_Behind_"))
        if lag is None:
            raise Failed("the replica does not replicate: one of its threads is stopped, or it has lost its primary")
        return float(lag)

    return threshold(measure, warn=warn, fail=fail, observation="lag_seconds")


def pool_use(pool: Pool, *, warn: float = 0.9) -> CheckFunc:
    """Return a check that the pool has connections to spare; observes `pool_use`, and never fails.

    `pool_use` is the share of the pool's maximum that is in use. It asks the pool, not the server. Cost: none. Every
    5 to 10 s is fine.

    Args:
        pool: The pool that the application uses.
        warn: The share from which it warns.

    Raises:
        TypeError: It is no such pool.
        ValueError: `warn` is no share, or the pool has no maximum.

    Example:
        >>> checker.add("mysql-pool", mysql.pool_use(pool), critical=False)
    """
    require_shares("mysql.pool_use", most=10, warn=warn)
    _require_pool(pool)
    if not pool.maxsize:
        raise ValueError("mysql.pool_use: this pool has no maximum that could be used up; leave this check out")

    async def measure() -> float:
        return (pool.size - pool.freesize) / pool.maxsize

    return threshold(measure, warn=warn, observation="pool_use")


async def _row(pool: Pool, query: str) -> Mapping[str, Any] | None:
    """Return the first row by the names of its columns, whatever kind of cursor the pool makes."""
    for last in (False, True):
        async with pool.acquire() as connection:
            try:
                async with connection.cursor() as cursor:
                    await cursor.execute(query)
                    row = await cursor.fetchone()
                    if row is None or isinstance(row, Mapping):
                        return row
                    return dict(zip((column[0] for column in cursor.description), row, strict=True))
            except connection.OperationalError as error:
                if last or error.args[0] not in _LOST:
                    raise
    raise AssertionError("unreachable")


def _require_pool(pool: object) -> None:
    if not all(hasattr(pool, name) for name in ("acquire", "freesize", "maxsize")):
        raise TypeError(
            f"mysql: {type(pool).__name__} is no pool of asyncmy or aiomysql; pass the one that the application holds, "
            "or use otel_health.checks.sqlalchemy for an engine"
        )
