"""Any database behind a SQLAlchemy engine, synchronous or asynchronous."""

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, cast

from otel_health.check import CheckFunc, completes, require_count, require_shares
from otel_health.compose import threshold


class Connection(Protocol):
    """What is used of a `sqlalchemy.Connection`, and, awaited, of an `AsyncConnection`."""

    @property
    def invalidated(self) -> bool: ...
    def exec_driver_sql(self, statement: str, /) -> Any: ...


class Engine(Protocol):
    """What is used of a `sqlalchemy.Engine`."""

    @property
    def pool(self) -> object: ...
    def connect(self) -> AbstractContextManager[Connection]: ...


class AsyncEngine(Protocol):
    """What is used of a `sqlalchemy.ext.asyncio.AsyncEngine`."""

    @property
    def pool(self) -> object: ...
    def connect(self) -> AbstractAsyncContextManager[Connection]: ...


class CountedPool(Protocol):
    """What is used of a `sqlalchemy.QueuePool`."""

    def checkedout(self) -> int: ...
    def size(self) -> int: ...


def answers(engine: Engine | AsyncEngine, *, query: str = "SELECT 1") -> CheckFunc:
    """Return a check that the database answers a query, on a connection of this engine.

    It proves that a connection can be had, that the database knows us, and that it executes. It does not prove that
    it takes writes. It waits for a connection as every request does: where the pool is exhausted it is late, as they
    are (`pool_use` warns before). To ask the database and nothing else, give it an engine of its own, with
    `pool_size=1`.

    A connection that had died in the pool is replaced, once in a run, with or without `pool_pre_ping`. The query runs
    in a transaction that is rolled back. Cost: one such query. Every 10 s is fine.

    Args:
        engine: What `create_engine` or `create_async_engine` returned.
        query: What is asked, in the words of the database: Oracle before 23 wants `SELECT 1 FROM dual`.

    Raises:
        TypeError: It is no engine.

    Example:
        >>> checker.add("mysql", sqlalchemy.answers(engine))
    """
    _require_engine(engine)
    if hasattr(engine, "sync_engine"):
        return completes(_ask_async, cast("AsyncEngine", engine), query)
    return completes(_ask, cast("Engine", engine), query)


def pool_use(engine: Engine | AsyncEngine, *, warn: float = 0.9, limit: int | None = None) -> CheckFunc:
    """Return a check that the engine's pool has connections to spare; observes `pool_use`, and never fails.

    `pool_use` is the share that is in use. It asks the pool, not the database. Cost: none. Every 5 to 10 s is fine.

    Args:
        engine: The engine that the application uses; its pool must be a `QueuePool`, as it is by default.
        warn: The share from which it warns.
        limit: How many connections there can be: `pool_size` and `max_overflow` together. `pool_size` alone, if you
            do not say; `pool_use` is more than 1 then while the overflow is in use.

    Raises:
        TypeError: It is no engine, or its pool has no size.
        ValueError: `warn` is no share, or `limit` is no count.

    Example:
        >>> checker.add("mysql-pool", sqlalchemy.pool_use(engine, limit=15), critical=False)
    """
    require_shares("sqlalchemy.pool_use", most=10, warn=warn)
    _require_engine(engine)
    if not hasattr(engine.pool, "checkedout") or not hasattr(engine.pool, "size"):
        raise TypeError(
            f"sqlalchemy.pool_use: a {type(engine.pool).__name__} has no size that could be used up; "
            "leave this check out, or make the engine with poolclass=QueuePool"
        )
    if limit is not None:
        require_count("sqlalchemy.pool_use", "limit", limit)

    async def measure() -> float:
        # The engine gets another pool when it is disposed of.
        pool = cast("CountedPool", engine.pool)
        return pool.checkedout() / max(limit or pool.size(), 1)

    return threshold(measure, warn=warn, observation="pool_use")


async def _ask_async(engine: AsyncEngine, query: str) -> None:
    for last in (False, True):
        async with engine.connect() as connection:
            try:
                await connection.exec_driver_sql(query)
            except Exception:
                if last or not connection.invalidated:
                    raise
            else:
                return


def _ask(engine: Engine, query: str) -> None:
    for last in (False, True):
        with engine.connect() as connection:
            try:
                connection.exec_driver_sql(query)
            except Exception:
                # Every connection of the pool that is as old as this one is replaced before it is used again.
                if last or not connection.invalidated:
                    raise
            else:
                return


def _require_engine(engine: object) -> None:
    if not hasattr(engine, "connect") or not hasattr(engine, "pool"):
        raise TypeError(
            f"sqlalchemy: {type(engine).__name__} is no engine; pass what create_engine or create_async_engine returned"
        )
