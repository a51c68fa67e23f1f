"""PostgreSQL, through the pool of asyncpg or psycopg 3 that the application holds."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, Final, LiteralString, Protocol, TypeGuard, cast

from otel_health.check import CheckFunc, Failed, completes, is_async, require_shares
from otel_health.compose import threshold

_TAKES_WRITES: Final = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'"
_LAG: Final = """SELECT CASE WHEN pg_is_in_recovery() THEN CASE
    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
    ELSE extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time()))
    END END::float8"""

_DIED: Final = {
    "AdminShutdownError", "ConnectionDoesNotExistError", "ConnectionResetError", "InterfaceError", "InternalClientError"
}  # fmt: skip
"""What asyncpg raises for a connection that died in the pool, or was told to; it takes the connection away then."""


class AsyncpgPool(Protocol):
    """What is used of an `asyncpg.Pool`."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...
    def get_size(self) -> int: ...
    def get_idle_size(self) -> int: ...
    def get_max_size(self) -> int: ...


class Connection(Protocol):
    """What is used of a `psycopg.Connection`."""

    @property
    def broken(self) -> bool: ...
    def execute(self, query: LiteralString, /) -> Any: ...


class PsycopgPool(Protocol):
    """What is used of a `psycopg_pool.ConnectionPool`."""

    def connection(self) -> AbstractContextManager[Connection]: ...
    def check(self) -> None: ...
    def get_stats(self) -> dict[str, int]: ...


class AsyncPsycopgPool(Protocol):
    """What is used of a `psycopg_pool.AsyncConnectionPool`."""

    def connection(self) -> AbstractAsyncContextManager[Connection]: ...
    async def check(self) -> None: ...
    def get_stats(self) -> dict[str, int]: ...


Pool = AsyncpgPool | PsycopgPool | AsyncPsycopgPool


def answers(pool: Pool) -> CheckFunc:
    """Return a check that PostgreSQL answers a query, on a connection of this pool.

    It proves that a connection can be had, that the server knows us, and that it executes. It does not prove that it
    takes writes (`writable`) or that your tables are there. It waits for a connection as every request does: where
    the pool is exhausted it is late, as they are (`pool_use` warns before). To ask the server and nothing else, give
    it a pool of its own, with one connection.

    A connection that had died in the pool is replaced, once in a run. Cost: one `SELECT 1`. Every 10 s is fine.

    Raises:
        TypeError: It is no such pool.

    Example:
        >>> checker.add("postgres", postgres.answers(pool))
    """
    return completes(_value(pool, "SELECT 1"))


def writable(pool: Pool) -> CheckFunc:
    """Return a check that the server takes writes: it is no standby, and transactions are not read-only.

    It writes nothing, so it proves neither that there is space nor that you may write to a table. For those who
    connect to a primary that can move. Cost: one query on two settings in memory. Every 10 s is fine.

    Raises:
        TypeError: It is no such pool.

    Example:
        >>> checker.add("postgres-primary", postgres.writable(pool))
    """

    def conclude(takes_writes: object) -> None:
        if takes_writes is not True:
            raise Failed("the server takes no writes: it is a standby, or transactions are read-only")

    return _concluded(_value(pool, _TAKES_WRITES), conclude)


def replication_lag(replica: Pool, *, warn: float, fail: float | None = None) -> CheckFunc:
    """Return a check that a replica is not too far behind its primary; observes `lag_seconds`.

    A replica that has replayed all it was sent, and is still connected to its primary, is 0 behind. Any other is as
    far behind as the last transaction that it replayed is old (as its own start, if there was none): where the primary
    is idle, that overstates. A server that is no replica fails.

    Args:
        replica: A pool of connections to the replica.
        warn: Seconds of lag from which it warns.
        fail: Seconds of lag from which it fails; never, if you do not say.

    Raises:
        TypeError: It is no such pool.
        ValueError: The limits make no sense.

    Cost: one query on what is in memory. Every 10 s is fine.

    Example:
        >>> checker.add("replica-lag", postgres.replication_lag(replica, warn=5, fail=60), critical=False)
    """

    def conclude(lag: object) -> float:
        if not isinstance(lag, float):
            raise Failed("there is no lag to measure: this server is no replica")
        return lag

    return threshold(_concluded(_value(replica, _LAG), conclude), warn=warn, fail=fail, observation="lag_seconds")


def pool_use(pool: Pool, *, warn: float = 0.9) -> CheckFunc:
    """Return a check that the pool has connections to spare; observes `pool_use`, and never fails.

    `pool_use` is the share of the pool's maximum that is in use. For psycopg that includes requests that wait for a
    connection, so it can be more than 1, and connections being opened, but for a pool's first ones. It asks the pool,
    not the server. Cost: none. Every 5 to 10 s is fine.

    Args:
        pool: The pool that the application uses.
        warn: The share from which it warns.

    Raises:
        TypeError: It is no such pool.
        ValueError: `warn` is no share.

    Example:
        >>> checker.add("postgres-pool", postgres.pool_use(pool), critical=False)
    """
    require_shares("postgres.pool_use", most=10, warn=warn)
    _require_pool(pool)

    opened = False

    async def measure() -> float:
        nonlocal opened
        if _is_asyncpg(pool):
            return (pool.get_size() - pool.get_idle_size()) / pool.get_max_size()
        now = cast("PsycopgPool", pool).get_stats()
        waiting = now.get("requests_waiting", 0)
        # A pool that has just been made counts what it has only begun to open: nobody was given that yet.
        opened = opened or now["pool_available"] > 0 or now.get("requests_num", 0) > waiting
        used = now["pool_size"] - now["pool_available"] if opened else 0
        return (used + waiting) / max(now["pool_max"], 1)

    return threshold(measure, warn=warn, observation="pool_use")


def _value(pool: Pool, query: LiteralString) -> Callable[[], Any]:
    """Return a function, sync or async as the pool is, that returns what the query does."""
    _require_pool(pool)
    if _is_asyncpg(pool):
        return partial(_ask_asyncpg, pool, query)
    if is_async(pool.check):  # type: ignore[union-attr]
        return partial(_ask_async, cast("AsyncPsycopgPool", pool), query)
    return partial(_ask, cast("PsycopgPool", pool), query)


def _concluded(value: Callable[[], Any], conclude: Callable[[Any], Any]) -> Callable[[], Any]:
    if is_async(value):

        async def conclude_later() -> Any:
            return conclude(await value())

        return conclude_later
    return lambda: conclude(value())


async def _ask_asyncpg(pool: AsyncpgPool, query: LiteralString) -> object:
    for last in (False, True):
        try:
            # A connection that has died is of no use to the pool either, which says so when it gets it back.
            async with pool.acquire() as connection:
                return await connection.fetchval(query)
        except Exception as error:
            if last or type(error).__name__ not in _DIED:
                raise
    raise AssertionError("unreachable")


async def _ask_async(pool: AsyncPsycopgPool, query: LiteralString) -> object:
    for last in (False, True):
        async with pool.connection() as connection:
            try:
                return _first(await (await connection.execute(query)).fetchone())
            except Exception:
                if last or not connection.broken:
                    raise
        # It had died in the pool, and the others may have died with it.
        await pool.check()
    raise AssertionError("unreachable")


def _ask(pool: PsycopgPool, query: LiteralString) -> object:
    for last in (False, True):
        with pool.connection() as connection:
            try:
                return _first(connection.execute(query).fetchone())
            except Exception:
                if last or not connection.broken:
                    raise
        pool.check()
    raise AssertionError("unreachable")


def _first(row: Sequence[object] | Mapping[str, object]) -> object:
    return next(iter(row.values())) if isinstance(row, Mapping) else row[0]


def _is_asyncpg(pool: Pool) -> TypeGuard[AsyncpgPool]:
    return hasattr(pool, "get_max_size")


def _require_pool(pool: object) -> None:
    if not hasattr(pool, "get_max_size") and not hasattr(pool, "get_stats"):
        raise TypeError(
            f"postgres: {type(pool).__name__} is no pool of asyncpg or psycopg; pass the one that the application "
            "holds, or use otel_health.checks.sqlalchemy for an engine"
        )
