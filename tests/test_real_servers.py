"""All of it over a real PostgreSQL and a real Redis: killed, frozen, brought back, and asked by many at once."""

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from httpx2 import ASGITransport, AsyncClient
from redis.asyncio import Redis
from starlette.applications import Starlette

from otel_health import Checker, CheckFunc, completes
from otel_health.prometheus import PrometheusExporter
from tests.doubles import eventually
from tests.servers import OwnServer, own_postgres, own_redis, program, shared_postgres, shared_redis

INTERVAL = 0.3
TIMEOUT = 0.5
IN_TIME = INTERVAL * 1.1 + TIMEOUT + 1.0
"""Seconds in which every sink must know: an interval with its jitter, a timeout, and a tolerance."""

Outage = tuple[Callable[[OwnServer], None], Callable[[OwnServer], None]]
"""How it begins, and how it ends."""

outages = pytest.mark.parametrize(
    "outage", [(OwnServer.kill, OwnServer.start), (OwnServer.pause, OwnServer.resume)], ids=["killed", "frozen"]
)


@pytest.fixture
def postgres() -> Iterator[OwnServer]:
    """A PostgreSQL of the test's own."""
    with own_postgres() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[OwnServer]:
    """A Redis of the test's own."""
    with own_redis() as server:
        yield server


@pytest.fixture(autouse=True)
def _transitions_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "otel_health")


def pool_of(port: int) -> AbstractAsyncContextManager[asyncpg.Pool]:
    """Open a connection pool, as an application would."""
    pool: AbstractAsyncContextManager[asyncpg.Pool] = asyncpg.create_pool(
        host="127.0.0.1", port=port, user="postgres", database="postgres", min_size=0, max_size=4
    )
    return pool


def executing(pool: asyncpg.Pool) -> CheckFunc:
    """Return the check that the README shows."""

    async def check() -> None:
        await pool.execute("SELECT 1")

    return check


class Service:
    """A service whose readiness is its checks', asked as Kubernetes and Prometheus would ask it."""

    def __init__(self, checks: dict[str, CheckFunc]) -> None:
        self.exporter = PrometheusExporter(service_name="orders")
        self.checker = Checker(interval=INTERVAL, timeout=TIMEOUT, meter_provider=self.exporter.meter_provider)
        for name, function in checks.items():
            self.checker.add(name, function)
        app = Starlette(routes=[*self.checker.routes(), self.exporter.route("/metrics")])
        self.client = AsyncClient(transport=ASGITransport(app=app), base_url="http://orders")

    async def says(self, *, up: bool) -> bool:
        """Whether the probe and the gauge of every component say that it is up, or that it is not."""
        ready = (await self.client.get("/readyz")).status_code
        metrics = (await self.client.get("/metrics")).text
        gauges = [f'otel_health_check_up{{component="{name}"}} {float(up)}\n' for name in self.checker.names]
        return ready == (200 if up else 503) and all(gauge in metrics for gauge in gauges)

    async def will_say(self, *, up: bool) -> None:
        """Wait until it says so; fail if that is late."""
        deadline = time.monotonic() + IN_TIME
        while not await self.says(up=up):
            assert time.monotonic() < deadline, f"probe and gauge do not say up={up} within {IN_TIME} s"
            await asyncio.sleep(0.02)

    async def fails_repeatedly(self) -> None:
        """Wait until every check has failed several times in a row."""
        states = self.checker.report().components
        await eventually(
            lambda: all(self.checker.report().components[name].consecutive_failures > 2 for name in states)
        )


@asynccontextmanager
async def serving(**checks: CheckFunc) -> AsyncIterator[Service]:
    """Run a service with these checks."""
    service = Service(checks)
    async with service.client:
        async with service.checker:
            yield service
        service.exporter.shutdown()


async def restored(server: OwnServer, outage: Outage) -> None:
    """End the outage, and wait until the server listens."""
    outage[1](server)
    await asyncio.to_thread(server.wait_until_ready)


async def logged(caplog: pytest.LogCaptureFixture, component: str, transitions: int) -> list[tuple[str, str]]:
    """Return what was logged of a component, without the reasons, once so many lines or more are there."""

    def lines() -> list[tuple[str, str]]:
        records = [(record.levelname, record.getMessage().partition(" (")[0]) for record in caplog.records]
        return [record for record in records if record[1].startswith(f"{component}:")]

    await eventually(lambda: len(lines()) >= transitions, IN_TIME)
    return lines()


@outages
async def test_every_sink_tells_of_a_postgres_that_goes_and_comes_back(
    postgres: OwnServer, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Probe, gauge and log follow a PostgreSQL that is killed or frozen, in time, and the log says it once."""
    async with pool_of(postgres.port) as pool:
        async with serving(query=completes(pool.fetchval, "SELECT 1"), execute=executing(pool)) as service:
            await service.will_say(up=True)
            outage[0](postgres)
            await service.will_say(up=False)
            await service.fails_repeatedly()
            await restored(postgres, outage)
            await service.will_say(up=True)

        for name in ("query", "execute"):
            assert await logged(caplog, name, 3) == [
                ("INFO", f"{name}: pending -> pass"),
                ("ERROR", f"{name}: pass -> fail"),
                ("INFO", f"{name}: fail -> pass"),
            ]


@outages
async def test_every_sink_tells_of_a_redis_that_goes_and_comes_back(
    redis: OwnServer, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Probe, gauge and log follow a Redis that is killed or frozen, in time, and the log says it once."""
    async with Redis(host="127.0.0.1", port=redis.port) as client, serving(redis=client.ping) as service:
        await service.will_say(up=True)
        outage[0](redis)
        await service.will_say(up=False)
        await service.fails_repeatedly()
        await restored(redis, outage)
        await service.will_say(up=True)

        assert await logged(caplog, "redis", 3) == [
            ("INFO", "redis: pending -> pass"),
            ("ERROR", "redis: pass -> fail"),
            ("INFO", "redis: fail -> pass"),
        ]


def library_threads() -> set[threading.Thread]:
    """The threads that the library has started and that still live."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("otel_health")}


def library_tasks() -> set["asyncio.Task[object]"]:
    """The tasks that the library has started and that still live."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("otel_health")}


@asynccontextmanager
async def every_task_ends() -> AsyncIterator[None]:
    """Fail if any task outlives what is done inside; a driver's own may end a little later."""
    before = asyncio.all_tasks()
    yield
    await eventually(lambda: asyncio.all_tasks() <= before)


async def postgres_connections(port: int) -> int:
    """Count the connections that a PostgreSQL holds, this one left out."""
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres")
    try:
        return len(await connection.fetch("SELECT FROM pg_stat_activity WHERE backend_type = 'client backend'")) - 1
    finally:
        await connection.close()


async def redis_connections(port: int) -> int:
    """Count the connections that a Redis holds, this one left out."""
    async with Redis(host="127.0.0.1", port=port) as client:
        return len(await client.client_list()) - 1


async def all_gone(connections: Callable[[int], Awaitable[int]], port: int) -> None:
    """Wait until a server holds no connection; it takes a moment to notice who has gone."""
    deadline = time.monotonic() + IN_TIME
    while (left := await connections(port)) > 0:
        assert time.monotonic() < deadline, f"{left} connections are left"
        await asyncio.sleep(0.02)


@outages
async def test_closing_in_an_outage_of_postgres_leaves_nothing_behind(postgres: OwnServer, outage: Outage) -> None:
    """No thread, task or connection outlives a Checker that is closed while PostgreSQL is away."""
    threads = library_threads()
    async with every_task_ends(), pool_of(postgres.port) as pool:
        async with serving(query=completes(pool.fetchval, "SELECT 1"), execute=executing(pool)) as service:
            await service.will_say(up=True)
            outage[0](postgres)
            await service.fails_repeatedly()
        left = library_tasks()
        await restored(postgres, outage)
        await eventually(lambda: pool.get_idle_size() == pool.get_size())

    assert left == set()
    await eventually(lambda: library_threads() <= threads)
    await all_gone(postgres_connections, postgres.port)


@outages
async def test_closing_in_an_outage_of_redis_leaves_nothing_behind(redis: OwnServer, outage: Outage) -> None:
    """No thread, task or connection outlives a Checker that is closed while Redis is away."""
    threads = library_threads()
    async with every_task_ends(), Redis(host="127.0.0.1", port=redis.port) as client:
        async with serving(redis=client.ping) as service:
            await service.will_say(up=True)
            outage[0](redis)
            await service.fails_repeatedly()
        left = library_tasks()
        await restored(redis, outage)

    assert left == set()
    await eventually(lambda: library_threads() <= threads)
    await all_gone(redis_connections, redis.port)


async def pings(client: Redis) -> int:
    """How often this Redis was ever pinged."""
    statistics = await client.info("commandstats")
    calls: int = statistics.get("cmdstat_ping", {}).get("calls", 0)
    return calls


async def test_two_hundred_probes_at_once_cost_redis_one_ping(redis: OwnServer) -> None:
    """However many ask on demand at the same time, the server is asked once."""
    checker = Checker(timeout=20.0, answer_within=30.0)
    async with Redis(host="127.0.0.1", port=redis.port) as client:
        checker.add("redis", client.ping)
        before = await pings(client)

        async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://orders") as http:
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(200)))

        assert {answer.status_code for answer in answers} == {200}
        assert await pings(client) - before == 1


async def test_promtool_accepts_the_metrics() -> None:
    """What is scraped has no fault that Prometheus' own linter knows of."""
    promtool, redis_port, postgres_port = program("promtool", "promtool"), shared_redis(), shared_postgres()
    async with (
        Redis(host="127.0.0.1", port=redis_port) as client,
        pool_of(postgres_port) as pool,
        serving(redis=client.ping, postgres=executing(pool), refused=refusing) as service,
    ):
        await eventually(lambda: service.checker.report().components["refused"].consecutive_failures > 0)
        metrics = (await service.client.get("/metrics")).text

    command = [promtool, "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=metrics, capture_output=True, text=True)

    assert "otel_health_check_failures_total{" in metrics
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def refusing() -> None:
    """Fail, so that the metrics of failures have samples too."""
    raise ConnectionRefusedError
