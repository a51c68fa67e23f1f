"""Where the application's own traffic proves that a server answers, the server need not be asked."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, NamedTuple

import asyncpg
import pytest
import redis
import redis.asyncio
import sqlalchemy

from tests.checks import clients
from tests.instrumentation.clients.watched import Watched, watching
from tests.servers import OwnServer, own_postgres, own_redis

PASSIVE = 60.0


async def ping(client: Any) -> None:
    """What an application asks of Redis, in a thread where it blocks."""
    answer = await asyncio.to_thread(client.ping)
    if asyncio.iscoroutine(answer):
        await answer


async def select(engine: sqlalchemy.Engine) -> None:
    """What an application asks of an engine."""

    def execute() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))

    await asyncio.to_thread(execute)


async def select_async(engine: Any) -> None:
    """What an application asks of an asynchronous engine."""
    async with engine.connect() as connection:
        await connection.execute(sqlalchemy.text("SELECT 1"))


async def fetch(pool: Any) -> None:
    """What an application asks of a pool of asyncpg."""
    await pool.fetchval("SELECT 1")


class Way(NamedTuple):
    """A technology that learns from traffic, and some traffic."""

    technology: str
    server: str
    opened: Callable[[int], AbstractAsyncContextManager[Any]]
    use: Callable[[Any], Awaitable[None]]


WAYS = [
    Way("redis", "redis", partial(clients.redis_sync, retry=None), ping),
    Way("redis", "redis", partial(clients.redis_async, retry=None), ping),
    Way("valkey", "redis", clients.valkey_sync, ping),
    Way("valkey", "redis", clients.valkey_async, ping),
    Way("sqlalchemy", "postgres", clients.engine, select),
    Way("sqlalchemy", "postgres", clients.async_engine, select_async),
    Way("asyncpg", "postgres", clients.asyncpg_pool, fetch),
]
ways = pytest.mark.parametrize("way", WAYS, ids=[f"{way.technology}-{way.server}" for way in WAYS])


@pytest.fixture(scope="module")
def redis_server() -> Iterator[OwnServer]:
    """A Redis that is killed."""
    with own_redis() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[OwnServer]:
    """A PostgreSQL that is killed."""
    with own_postgres() as server:
        yield server


@ways
async def test_what_traffic_proves_is_not_asked(way: Way, request: pytest.FixtureRequest) -> None:
    """For as long as it may be believed, and only if nothing has failed since."""
    server: OwnServer = request.getfixturevalue(f"{way.server}_server")
    with watching(way.technology, passive_for=PASSIVE) as application:
        async with way.opened(server.port) as client:
            name = the_one(application, server)
            use = partial(way.use, client)

            await use()
            server.pause()  # Whoever asked now would get no answer.
            assert await application.status(name) == "pass"
            server.resume()
            server.kill()
            application.clock.now += PASSIVE
            assert await application.status(name) == "fail"

            await started(server, use)
            assert await application.status(name) == "pass"
            server.kill()
            with suppress(Exception):
                await asyncio.wait_for(use(), 10)
            assert await application.status(name) == "fail"

            server.start()
            server.wait_until_ready()
        del client, use
        gc.collect()


@ways
async def test_a_check_is_no_traffic(way: Way, request: pytest.FixtureRequest) -> None:
    """That a server answered a check proves nothing of it later."""
    server: OwnServer = request.getfixturevalue(f"{way.server}_server")
    with watching(way.technology, passive_for=PASSIVE) as application:
        async with way.opened(server.port) as client:
            name = the_one(application, server)
            assert await application.status(name) == "pass"
            server.kill()
            assert await application.status(name) == "fail"

            server.start()
            server.wait_until_ready()
        del client
        gc.collect()


def the_one(application: Watched, server: OwnServer) -> str:
    """The component of this server."""
    (name,) = (name for name in application.names() if str(server.port) in name)
    return name


async def started(server: OwnServer, use: Callable[[], Awaitable[None]]) -> None:
    """Start a server, and use it until the client has got over it."""
    server.start()
    server.wait_until_ready()
    for _ in range(5):
        with suppress(Exception):
            await use()
            return
    await use()


async def test_without_the_option_nothing_is_wrapped_but_constructors() -> None:
    """So a call of a client costs what it did before."""
    classes = [
        redis.connection.AbstractConnection,
        redis.asyncio.connection.AbstractConnection,
        redis.asyncio.connection.Connection,
        asyncpg.pool.PoolConnectionHolder,
        sqlalchemy.Engine,
    ]

    def changed(before: list[dict[str, Any]]) -> set[str]:
        now = [dict(vars(each)) for each in classes]
        return {name for old, new in zip(before, now, strict=True) for name in new if new[name] is not old.get(name)}

    before = [dict(vars(each)) for each in classes]
    with watching():
        assert changed(before) == {"__init__"}
    with watching(passive_for=PASSIVE):
        assert changed(before) == {"__init__", "_connect", "_release_on_close", "acquire", "read_response", "release"}
    assert changed(before) == set()


def test_an_engine_is_left_with_no_listener() -> None:
    """What listened to its traffic goes when nobody is interested any more."""
    with watching("sqlalchemy", passive_for=PASSIVE):
        engine = sqlalchemy.create_engine("sqlite:///orders.sqlite3")
        assert len(engine.dispatch.after_cursor_execute) == 1

    assert len(engine.dispatch.after_cursor_execute) == 0
    assert len(engine.dialect.dispatch.handle_error) == 0
