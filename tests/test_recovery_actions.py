"""The recovery actions that come with the library: with real pools, real tasks and real processes."""

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncpg
import pytest
import redis as sync_redis
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from redis.asyncio import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_health import Checker, Status
from otel_health.ladder import title_of
from otel_health.lifecycle import Drain
from otel_health.recovery import Supervisor, free_caches, graceful_restart, ladder, reset_pool, restart
from otel_health.report import RecoveryOutcome, TaskState
from tests.doubles import eventually
from tests.servers import shared_postgres, shared_redis
from tests.virtual import now, virtual_checker


async def taken(action: Callable[[], object]) -> None:
    """Take the action as the Checker would: on the loop, or in a thread."""
    made = await asyncio.to_thread(action) if not inspect.iscoroutinefunction(action) else action()
    if inspect.isawaitable(made):
        await made


# Pools.


def dsn() -> str:
    """Where the PostgreSQL of `make services` is."""
    return f"postgresql://postgres@127.0.0.1:{shared_postgres()}/postgres"


@asynccontextmanager
async def by_asyncpg() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """A pool of asyncpg, and how to ask it for its backend."""
    async with asyncpg.create_pool(dsn(), min_size=1, max_size=1) as pool:
        yield pool, lambda: pool.fetchval("SELECT pg_backend_pid()")


@asynccontextmanager
async def by_psycopg() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """An async pool of psycopg."""
    async with AsyncConnectionPool(dsn(), min_size=1, max_size=1, open=False) as pool:

        async def backend() -> Any:
            async with pool.connection() as connection:
                return (await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or (None,))[0]

        yield pool, backend


@asynccontextmanager
async def by_psycopg_in_threads() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """A sync pool of psycopg."""
    with ConnectionPool(dsn(), min_size=1, max_size=1, open=False) as pool:

        def backend() -> Any:
            with pool.connection() as connection:
                return (connection.execute("SELECT pg_backend_pid()").fetchone() or (None,))[0]

        yield pool, lambda: asyncio.to_thread(backend)


@asynccontextmanager
async def by_sqlalchemy() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """An async engine of SQLAlchemy."""
    engine = create_async_engine(dsn().replace("postgresql", "postgresql+asyncpg"))

    async def backend() -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()

    yield engine, backend
    await engine.dispose()


@asynccontextmanager
async def by_sqlalchemy_in_threads() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """A sync engine of SQLAlchemy."""
    engine = create_engine(dsn().replace("postgresql", "postgresql+psycopg"))

    def backend() -> Any:
        with engine.connect() as connection:
            return connection.execute(text("SELECT pg_backend_pid()")).scalar()

    yield engine, lambda: asyncio.to_thread(backend)
    engine.dispose()


@asynccontextmanager
async def by_redis() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """The pool of an async client of Redis."""
    client = Redis(port=shared_redis(), max_connections=1)
    yield client.connection_pool, client.client_id
    await client.aclose()


@asynccontextmanager
async def by_redis_in_threads() -> AsyncIterator[tuple[object, Callable[[], Any]]]:
    """The pool of a sync client of Redis."""
    client = sync_redis.Redis(port=shared_redis(), max_connections=1)
    yield client.connection_pool, lambda: asyncio.to_thread(client.client_id)
    client.close()


POOLS = [
    by_asyncpg,
    by_psycopg,
    by_psycopg_in_threads,
    by_sqlalchemy,
    by_sqlalchemy_in_threads,
    by_redis,
    by_redis_in_threads,
]


@pytest.mark.parametrize("opened", POOLS, ids=lambda made: made.__name__)
async def test_a_pool_that_is_reset_opens_new_connections(opened: Any) -> None:
    """The server sees another client than before, and goes on answering."""
    async with opened() as (pool, backend):
        before = await backend()
        assert await backend() == before

        await taken(reset_pool(pool))

        assert await backend() != before


async def test_a_pool_that_is_left_with_a_server_that_only_reads_is_mended() -> None:
    """As after a failover: what the pool holds is of no use, the check says so, and new connections are well."""
    async with AsyncConnectionPool(dsn(), min_size=1, max_size=1, open=False) as pool, Checker(interval=60) as checker:

        async def writes() -> bool:
            async with pool.connection() as connection:
                found = await (await connection.execute("SHOW default_transaction_read_only")).fetchone()
                return found == ("off",)

        checker.add("postgres", writes, recover=reset_pool(pool))
        await eventually(lambda: checker.report().status is Status.PASS)
        async with pool.connection() as connection:
            await connection.execute("SET SESSION default_transaction_read_only = on")
        seen: list[Status] = []
        checker.subscribe(lambda transition: seen.append(transition.after))
        checker.renew("postgres")
        await eventually(lambda: seen == [Status.FAIL, Status.PASS])


def test_what_is_no_pool_is_refused() -> None:
    """Where it is written, with what was looked for."""
    with pytest.raises(TypeError, match="a float cannot be reset: it has none of expire_connections, drain"):
        reset_pool(1.0)


# Tasks.


@pytest.mark.virtual_time
async def test_a_consumer_that_hangs_is_started_anew() -> None:
    """Its heartbeat fails, and a new one beats."""
    lives: list[float] = []
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        beats = checker.heartbeat("consumer", max_age=60, recover=restart(supervisor, "consuming"))

        async def consume() -> None:
            lives.append(now())
            beats.beat()
            if len(lives) == 1:
                await asyncio.Event().wait()
            while True:
                await asyncio.sleep(10)
                beats.beat()

        supervisor.start("consuming", consume)
        await asyncio.sleep(59)
        assert len(lives) == 1
        await asyncio.sleep(2)
        assert lives[1] - lives[0] == pytest.approx(60, abs=0.1)
        await asyncio.sleep(600)
        assert len(lives) == 2
        assert checker.report().status is Status.PASS


@pytest.mark.virtual_time
async def test_a_task_that_was_given_up_calls_for_its_recovery_and_not_before() -> None:
    """While it is started anew by itself, nobody else need do anything."""
    states: list[TaskState | None] = []

    async def crash() -> None:
        raise ConnectionError("refused")

    async def call() -> None:
        states.append(consumer.task_state)

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        consumer = supervisor.start("consumer", crash, max_restarts=10, recover=call)
        await asyncio.sleep(360)

    assert 1 <= len(states) <= 3
    assert set(states) == {TaskState.GAVE_UP}


@pytest.mark.virtual_time
async def test_a_restart_of_an_unknown_task_is_an_attempt_that_failed() -> None:
    """The report names those that are known."""

    async def fails() -> bool:
        return False

    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        checker.add("queue", fails, recover=restart(supervisor, "consumer"))
        await asyncio.sleep(1)
        recovery = checker.report().components["queue"].recovery
        assert recovery is not None
        assert recovery.outcome is RecoveryOutcome.FAILED
        assert recovery.message == "KeyError: \"no task is named 'consumer'; supervised: none\""


# Caches.


class Priced:
    """Something that a cache holds."""


async def test_caches_are_emptied_and_garbage_is_collected() -> None:
    """What they held is gone, and so are the cycles that nobody had collected."""

    @cache
    def prices(_: int) -> Priced:
        return Priced()

    cycle = Priced()
    cycle.itself = cycle  # type: ignore[attr-defined]
    kept, garbage = weakref.ref(prices(1)), weakref.ref(cycle)
    del cycle
    gc.disable()
    try:
        await taken(free_caches(prices.cache_clear))
    finally:
        gc.enable()

    assert (kept(), garbage()) == (None, None)


def test_what_empties_no_cache_is_refused() -> None:
    """One passes the function, not its result."""
    with pytest.raises(TypeError, match="free_caches: a NoneType cannot be called"):
        free_caches(None)  # type: ignore[arg-type]


# The process.


SERVICE = """
import asyncio, logging
from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.recovery import graceful_restart, ladder
logging.basicConfig(level=logging.WARNING, format="%(message)s")

async def fails():
    raise ConnectionError("refused")

async def main():
    checker = Checker()
    drain = Drain(checker, delay=0.2, cap=10.0)
    checker.add("redis", fails, recover=graceful_restart(drain, failing_for=0.001, min_uptime=MIN_UPTIME))
    async with checker, drain:
        print("serving", flush=True)
        try:
            await asyncio.wait_for(drain.wait(), 3)
        except TimeoutError:
            print("nobody asked", flush=True)
        print(drain.gate.reason, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("min_uptime", ["0.001", "600"])
def test_the_last_resort_ends_the_process_through_its_drain(min_uptime: str) -> None:
    """As a SIGTERM would, so that whoever watches starts it anew; but never soon after its start."""
    ended = subprocess.run(
        [sys.executable, "-c", SERVICE.replace("MIN_UPTIME", min_uptime)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    if min_uptime == "600":
        assert ended.stdout.split("\n")[:2] == ["serving", "nobody asked"]
        assert "no restart after 0 s: that is less than min_uptime=600" in ended.stderr
    else:
        assert ended.stdout.split("\n")[:2] == ["serving", "restarting"]
        assert "redis: recovery attempt 1 of 3 begins: graceful_restart" in ended.stderr


@pytest.mark.parametrize("gap", [40.0, 1000.0])
@pytest.mark.virtual_time
async def test_the_last_resort_waits_for_a_failure_that_lasts(gap: float) -> None:
    """A consumer that was started anew, and whose next message comes in time, costs no process."""
    lives: list[float] = []
    last = graceful_restart(Drain(Checker()), min_uptime=1e-9)
    async with virtual_checker() as checker, Supervisor(checker) as supervisor:
        beats = checker.heartbeat("consumer", max_age=60, recover=ladder(restart(supervisor, "consuming"), last))

        async def consume() -> None:
            lives.append(now())
            if len(lives) == 1:
                beats.beat()
                await asyncio.Event().wait()
            while True:
                await asyncio.sleep(gap)
                beats.beat()

        def action() -> str | None:
            recovery = checker.report().components["consumer"].recovery
            return None if recovery is None else recovery.action

        supervisor.start("consuming", consume)
        await asyncio.sleep(60 + 115)
        assert (action(), len(lives)) == ("Supervisor.restart", 2)
        await asyncio.sleep(60)
        assert action() == ("Supervisor.restart" if gap == 40 else "graceful_restart")


def test_a_restart_that_waits_for_nothing_is_refused() -> None:
    """Zero seconds of failure are none."""
    with pytest.raises(ValueError, match="graceful_restart: failing_for=0 must be a positive"):
        graceful_restart(Drain(Checker()), failing_for=0)


def test_a_restart_through_anything_but_a_drain_is_refused() -> None:
    """At registration, and not when it would be needed."""
    with pytest.raises(TypeError, match="a Checker is no Drain"):
        graceful_restart(Checker())  # type: ignore[arg-type]


async def test_without_a_handler_nothing_is_killed() -> None:
    """A SIGTERM that nobody handles would end the process at once, and in no good order."""
    killed: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: killed.append(number))
    try:
        with pytest.raises(RuntimeError, match="does not handle SIGTERM"):
            await taken(graceful_restart(Drain(Checker()), min_uptime=1e-9))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert killed == []


async def test_an_action_is_called_by_the_name_of_who_made_it() -> None:
    """The log says what was done, in words that stand in the code."""
    supervisor = Supervisor(Checker())
    made = [restart(supervisor, "consumer"), free_caches(), graceful_restart(Drain(Checker()))]
    assert [title_of(each) for each in made] == ["Supervisor.restart", "free_caches", "graceful_restart"]
    assert len(ladder(*made).steps) == 3
    assert title_of(os.getpid) == "getpid"
