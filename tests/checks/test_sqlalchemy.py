"""SQLAlchemy beyond what every server is put to: dead connections, full pools, pools without a size."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import sqlalchemy as alchemy
from sqlalchemy.ext.asyncio import create_async_engine

from otel_health import Checker
from otel_health.checks import sqlalchemy
from otel_health.testing import assert_statuses
from tests.checks.clients import async_engine, engine
from tests.checks.conftest import Started
from tests.checks.results import result_of
from tests.checks.test_postgres import execute

engines = pytest.mark.parametrize("opened", [engine, async_engine])

END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("make", [sqlalchemy.answers, sqlalchemy.pool_use])
def test_what_is_no_engine_is_refused_without_being_shown(make: Any) -> None:
    """A URL is refused at once, and its password is not repeated."""
    with pytest.raises(TypeError, match="str is no engine") as caught:
        make("postgresql://orders:s3cret@db/orders")

    assert "s3cret" not in str(caught.value)


@engines
async def test_connections_that_died_in_the_pool_fail_nothing(servers: Started, opened: Any) -> None:
    """The server ended every one of them: the next run passes at once, without `pool_pre_ping`."""
    server = servers("postgres")
    async with opened(server.port, pool_size=2) as made:
        check = sqlalchemy.answers(made)
        async with AsyncExitStack() as stack:
            await take_all(stack, made)
        await execute(server, END_ALL)

        assert (await result_of(check)).status == "pass"


@pytest.mark.parametrize(
    ("make", "driver", "told"),
    [
        (alchemy.create_engine, "psycopg", {"OperationalError"}),
        (create_async_engine, "asyncpg", {"InvalidAuthorizationSpecificationError", "DBAPIError"}),
    ],
)
async def test_a_server_that_refuses_us_is_told(servers: Started, make: Any, driver: str, told: set[str]) -> None:
    """By the driver's word for it, without the password."""
    made = make(f"postgresql+{driver}://nobody:s3cret@127.0.0.1:{servers('postgres').port}/postgres")
    result = await result_of(sqlalchemy.answers(made))
    made.dispose() if driver == "psycopg" else await made.dispose()

    assert result.status == "fail"
    assert result.refined_error_type in told
    assert "s3cret" not in str(result)


@engines
async def test_a_full_pool_warns_and_condemns_nothing(servers: Started, opened: Any) -> None:
    """Half of it with the overflow counted, all of it without; the engine beside it is asked in peace."""
    port = servers("postgres").port
    checker = Checker(timeout=2.0)
    async with AsyncExitStack() as stack:
        made, beside = [await stack.enter_async_context(opened(port, pool_size=2, max_overflow=2)) for _ in range(2)]
        checker.add("pool", sqlalchemy.pool_use(made))
        checker.add("pool-and-overflow", sqlalchemy.pool_use(made, limit=4))
        checker.add("server", sqlalchemy.answers(beside))
        await take_all(stack, made)

        report = await checker.run()

    assert_statuses(report, {"pool": "warn", "pool-and-overflow": "pass", "server": "pass"})
    result = report.components["pool-and-overflow"].result
    assert result is not None
    assert result.observations == {"pool_use": 0.5}


async def take_all(stack: AsyncExitStack, made: Any) -> None:
    """Take both connections of this engine until the stack is unwound."""
    for _ in range(2):
        if hasattr(made, "sync_engine"):
            await stack.enter_async_context(made.connect())
        else:
            stack.enter_context(made.connect())


def test_a_pool_without_a_size_is_refused() -> None:
    """There is nothing that could be used up."""
    made = alchemy.create_engine("sqlite://", poolclass=alchemy.NullPool)

    with pytest.raises(TypeError, match="a NullPool has no size"):
        sqlalchemy.pool_use(made)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_that_is_no_count_is_refused(limit: Any) -> None:
    """A share of nothing, or of a fraction, means nothing."""
    made = alchemy.create_engine("postgresql+psycopg://db/orders")

    with pytest.raises(ValueError, match="limit"):
        sqlalchemy.pool_use(made, limit=limit)


@engines
async def test_a_query_of_ones_own_is_asked(servers: Started, opened: Any) -> None:
    """What fails is what was asked."""
    async with opened(servers("postgres").port) as made:
        result = await result_of(sqlalchemy.answers(made, query="SELECT 1 FROM no_such_table"))

    assert (result.status, result.refined_error_type) == ("fail", "ProgrammingError")
