"""Over real sockets: uvicorn serving Starlette, FastAPI and the bare application."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from httpx2 import AsyncClient
from starlette.applications import Starlette

from otel_health import Checker, Failed
from otel_health.prometheus import PrometheusExporter
from tests.doubles import Blocking, Switch, eventually, passing


@asynccontextmanager
async def served(app: Any, loop: str = "asyncio") -> AsyncIterator[AsyncClient]:
    """This application under uvicorn, in a thread with a loop of its own, and a client of it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on", loop=loop))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        await eventually(lambda: server.started, seconds=10)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            yield client
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


def starlette(checker: Checker, exporter: PrometheusExporter) -> Any:
    """The routes, in Starlette."""
    return Starlette(routes=[*checker.routes(), exporter.route()], lifespan=checker.lifespan)


def fastapi(checker: Checker, exporter: PrometheusExporter) -> Any:
    """The routes, in FastAPI."""
    app = FastAPI(lifespan=checker.lifespan)
    app.router.routes.extend([*checker.routes(), exporter.route()])
    return app


def bare(checker: Checker, _: PrometheusExporter) -> Any:
    """The application by itself."""
    return checker.asgi()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("build", [starlette, fastapi, bare])
async def test_probes_follow_the_state(build: Any, loop: str) -> None:
    """Ready, not ready, ready again; alive all along; one run for each interval; nothing left after shutdown."""
    switch = Switch()
    exporter = PrometheusExporter()
    checker = Checker(interval=0.1, meter_provider=exporter.meter_provider)
    checker.add("redis", switch)
    checker.add("disk", lambda: None)
    async with served(build(checker, exporter), loop) as client:

        async def ready(status: int) -> None:
            deadline = time.monotonic() + 3
            while (await client.get("/readyz")).status_code != status:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

        await ready(200)
        switch.error = Failed("down")
        await ready(503)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/healthz/disk")).status_code == 200
        if build is not bare:
            assert 'otel_health_check_up{component="redis"} 0.0' in (await client.get("/metrics")).text
        switch.error = None
        await ready(200)
    assert not checker.is_open


async def test_a_hung_check_does_not_delay_a_probe_or_the_shutdown() -> None:
    """Answers within the budget over a real socket, and the server stops at once."""
    blocking = Blocking()
    checker = Checker(timeout=60)
    checker.add("stuck", blocking)
    checker.add("redis", passing())
    begun = time.monotonic()
    async with served(Starlette(routes=checker.routes())) as client:
        asked = time.monotonic()
        response = await client.get("/readyz?verbose")
        assert time.monotonic() - asked < 1.0
        assert response.text == "[-]stuck failed: reason withheld\n[+]redis ok\nreadyz check failed\n"
    assert time.monotonic() - begun < 5
    blocking.let_go.set()


async def test_the_state_is_read_from_a_loop_that_is_not_the_checkers() -> None:
    """A server on another thread may serve the probes of a Checker that is open elsewhere."""
    checker = Checker(interval=0.1)
    checker.add("redis", passing())
    async with checker:
        await eventually(lambda: checker.report().status.up)
        async with served(Starlette(routes=checker.routes())) as client:
            assert (await client.get("/readyz")).status_code == 200
