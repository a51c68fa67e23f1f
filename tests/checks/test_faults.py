"""Every check against its real server: up, gone, killed, frozen, talking rubbish."""

import asyncio
import gc
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from otel_health import Checker, CheckFunc, CheckResult
from tests.checks.clients import WAYS, Way
from tests.checks.conftest import Started
from tests.checks.held import connections, foreign_threads, open_descriptors
from tests.doubles import eventually
from tests.servers import free_port

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
    await eventually(lambda: _held_after_collection() <= descriptors, PATIENCE)
    await eventually(lambda: connections(port) <= (way.inner if inner is None else inner), PATIENCE)


def _held_after_collection() -> int:
    # A thread that has just ended its job may make garbage of what it held after any single collection.
    gc.collect()
    return open_descriptors()


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
