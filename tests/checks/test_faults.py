"""Every check against its real server: up, gone, killed, frozen, talking rubbish, and asked many times."""

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from otel_health import Checker, CheckFunc, CheckResult
from tests.checks import test_shape
from tests.checks.clients import WAYS, Way
from tests.checks.conftest import Started
from tests.checks.every import EVERY
from tests.checks.held import connections, foreign_threads, not_taken_in, open_descriptors
from tests.checks.leftovers import left_by
from tests.checks.more_servers import with_more
from tests.checks.results import becomes, result_of
from tests.doubles import eventually
from tests.servers import OwnServer, free_port

TIMEOUT = 0.5
LATE = TIMEOUT + 1.0
"""Seconds after which a verdict is late: the promise is 0.1 s after the deadline, the rest is for a busy machine."""

PATIENCE = 15.0

ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
outages = pytest.mark.parametrize(("begin", "end"), [("kill", "start"), ("pause", "resume")], ids=["killed", "frozen"])


class Probe:
    """One check, run when it is asked."""

    def __init__(self, function: CheckFunc) -> None:
        self.checker = Checker(timeout=TIMEOUT, ttl=0.001)
        self.checker.add("it", function)

    async def result(self) -> CheckResult:
        """Run it and return what came of it; it must not be late."""
        begun = time.monotonic()
        await asyncio.sleep(0.002)
        state = (await self.checker.run()).components["it"]
        assert time.monotonic() - begun < LATE
        assert state.result is not None
        return state.result

    async def error(self) -> str | None:
        """Run it and return how it failed; None where it passed."""
        return (await self.result()).refined_error_type


@asynccontextmanager
async def probing(way: Way, port: int, *, inner: int | None = None) -> AsyncIterator[Probe]:
    """Open a client and probe its check; no task, thread, descriptor or connection may be left afterwards.

    Args:
        way: How the application asks.
        port: Whom.
        inner: How many connections the server may hold that are not its client's; as the way says, by default.
    """
    descriptors, threads, tasks = open_descriptors(), foreign_threads(), asyncio.all_tasks()
    async with way.client(port) as client:
        yield Probe(way.check(client))
    await eventually(lambda: asyncio.all_tasks() <= tasks, PATIENCE)
    await eventually(lambda: foreign_threads() <= threads, PATIENCE)
    await eventually(lambda: open_descriptors() <= descriptors, PATIENCE)
    await eventually(lambda: connections(port) <= (way.inner if inner is None else inner), PATIENCE)


@contextmanager
def rubbish() -> Iterator[int]:
    """A server that answers whatever it is sent, and whoever says nothing, with rubbish; gives its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"\x00\xffI am not what you think I am\r\n" * 20)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@ways
@outages
async def test_it_tells_of_a_server_that_goes_and_comes_back(servers: Started, way: Way, begin: str, end: str) -> None:
    """Killed or frozen between two runs: it fails in time, and says why; it passes soon after the server is back."""
    server = servers(way.server)
    async with probing(way, server.port) as probe:
        assert await probe.error() is None
        getattr(server, begin)()
        try:
            error = await probe.error()
        finally:
            getattr(server, end)()
        await asyncio.to_thread(server.wait_until_ready)

        assert error in (way.refused if begin == "kill" else way.frozen)
        await passes_again(probe)


# A mock broker that is killed comes back elsewhere; `test_kafka` kills one.
@pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items() if way.server != "kafka"])
async def test_it_tells_of_a_server_that_is_killed_under_way(servers: Started, way: Way) -> None:
    """Killed while it is asked: the run fails in time."""
    server = servers(way.server)
    async with probing(way, server.port) as probe:
        assert await probe.error() is None
        server.pause()
        asked = asyncio.create_task(probe.error())
        await asyncio.sleep(0.05)
        server.kill()
        try:
            error = await asked
        finally:
            server.start()
            await asyncio.to_thread(server.wait_until_ready)

        assert error in {*way.refused, *way.frozen}
        await passes_again(probe)


async def passes_again(probe: Probe) -> None:
    """Wait until it passes."""
    deadline = time.monotonic() + PATIENCE
    while (error := await probe.error()) is not None:
        assert time.monotonic() < deadline, f"it still fails: {error}"
        await asyncio.sleep(0.05)


@ways
async def test_it_tells_of_a_server_that_is_not_there(way: Way) -> None:
    """Where nobody listens it fails, with an error type that says so."""
    async with probing(way, free_port()) as probe:
        assert await probe.error() in way.refused


@ways
async def test_it_tells_of_a_server_that_talks_rubbish(way: Way) -> None:
    """What is no answer fails, in time, and never as an invalid result of ours."""
    with rubbish() as port:
        async with probing(way, port) as probe:
            result = await probe.result()

    assert result.status == "fail"
    assert result.refined_error_type in {*way.refused, *way.rubbish}


@pytest.fixture(scope="module")
def all_servers(servers: Started) -> Iterator[Started]:
    """The servers that the tests share, and those that a check here and there needs beside them."""
    with ExitStack() as stack:
        yield with_more(stack, servers)


@pytest.mark.parametrize("name", EVERY)
async def test_many_runs_leave_nothing_behind(all_servers: Started, name: str) -> None:
    """No descriptor, thread, task, connection or memory; `python -m tests.soak R24` runs each a thousand times."""
    left = await left_by(EVERY[name], all_servers, EVERY[name].few)

    assert left.nothing, left


def test_every_check_is_run_many_times() -> None:
    """A check that is missing there could leave anything."""
    assert {name.partition(",")[0] for name in EVERY} == {".".join(pair) for pair in test_shape.EVERY}


WITHOUT_FILES = (
    "etcd.answers, etcd-async",
    "grpc.serves, aio",
    "http.answers",
    "kafka.answers, kafka-producer",
    "ldap.answers",
    "mqtt.answers, aiomqtt",
    "mqtt.publishes, paho",
    "otlp.accepts",
    "s3.answers, boto3",
    "service.healthy",
    "smtp.answers, starttls",
    "tls.lasts",
    "zookeeper.answers, zookeeper",
)
"""Where a run opens a connection, or where the client is new."""


@pytest.mark.parametrize("name", WITHOUT_FILES)
async def test_a_server_that_can_open_nothing_more(all_servers: Started, name: str) -> None:
    """The kernel accepts for it, and it cannot take over: who comes now fails in time, and passes once it can again."""
    asked: list[OwnServer] = []

    def noted(server: str) -> OwnServer:
        asked.append(all_servers(server))
        return asked[-1]

    row = EVERY[name]
    async with row.opened(noted):
        pass
    with ExitStack() as stack:
        # Some take nobody in again before somebody whom they had taken in has left.
        stack.enter_context(socket.create_connection(("127.0.0.1", asked[0].port)))
        await eventually(lambda: not_taken_in(asked[0].port) == 0, PATIENCE)
        stack.enter_context(asked[0].without_files())
        async with row.opened(all_servers) as check:
            assert (await result_of(check, timeout=0.5)).status == "fail"
            stack.close()
            await becomes("pass", check)


SHARING_NO_WAY = (
    "alembic.migrated, engine",
    "alembic.migrated, async engine",
    "celery.backlog, redis",
    "kafka.lag, confluent",
    "kafka.lag, aiokafka",
    "kafka.progress, confluent",
    "kafka.progress, aiokafka",
    "mysql.replication_lag",
    "mysql.writable, asyncmy",
    "nats.pending",
    "otlp.accepts",
    "postgres.replication_lag",
    "postgres.writable, psycopg",
    "rabbitmq.consumed",
    "redis.cluster_state, async",
    "redis.replication_lag, sync",
    "redis.sentinel_quorum, async",
    "service.healthy",
    "tls.lasts",
)
"""Checks that are no way of `WAYS` and have no such test of their own."""


@pytest.mark.parametrize("name", SHARING_NO_WAY)
async def test_the_other_checks_tell_of_a_server_too(all_servers: Started, name: str) -> None:
    """Frozen, and killed before it goes on: they fail in time, and pass again once it is back."""
    asked: list[OwnServer] = []

    def noted(server: str) -> OwnServer:
        asked.append(all_servers(server))
        return asked[-1]

    async with EVERY[name].opened(noted) as check:
        probe, server = Probe(check), asked[0]
        await passes_again(probe)
        server.pause()
        try:
            frozen = await probe.result()
        finally:
            server.kill()
        try:
            killed = await probe.result()
        finally:
            server.start()
        await asyncio.to_thread(server.wait_until_ready)

        assert (frozen.status, frozen.refined_error_type) == ("fail", "timeout")
        assert killed.status == "fail"
        await passes_again(probe)
