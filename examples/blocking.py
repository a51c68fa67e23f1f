"""A service that blocks its event loop when it is told to: `.venv/bin/python -m examples.blocking`.

    curl -s '127.0.0.1:8000/block?seconds=5' &      the loop is stuck, and nothing else answers at port 8000
    curl -s '127.0.0.1:8081/livez?verbose'          liveness does; after STUCK_AFTER (10) seconds it fails

PORT and LIVENESS_PORT name other ports, and MODE=process answers from a process of its own. The log says where the
loop was blocked, and for how long.
"""

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_health import Checker
from otel_health.lifecycle import LivenessServer, LoopMonitor
from otel_health.prometheus import PrometheusExporter

MAX_SECONDS = 60.0


async def block(request: Request) -> PlainTextResponse:
    """Do what no coroutine should: hold the loop."""
    try:
        seconds = min(float(request.query_params.get("seconds", "5")), MAX_SECONDS)
    except ValueError:
        return PlainTextResponse("seconds must be a number\n", 400)
    time.sleep(max(seconds, 0.0))  # noqa: ASYNC251 - it is what this example is about.
    return PlainTextResponse(f"blocked for {seconds:g} s\n")


def create_app(*, port: int = 8081, mode: str = "thread", stuck_after: float = 10.0) -> Starlette:
    """Return the service, whose liveness is answered at `port`."""
    exporter = PrometheusExporter(service_name="blocking")
    checker = Checker(meter_provider=exporter.meter_provider)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        monitor = LoopMonitor(checker, stuck_after=stuck_after, warn_after=1.0)
        if mode == "process":
            server = LivenessServer(checker, port=port, mode="process")
        else:
            server = LivenessServer(checker, port=port, metrics=exporter)
        async with checker, monitor, server:
            yield

    return Starlette(routes=[Route("/block", block), *checker.routes(), exporter.route()], lifespan=lifespan)


def main() -> None:
    """Serve on 127.0.0.1, and liveness at a port of its own."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)-8s %(message)s")
    app = create_app(
        port=int(os.environ.get("LIVENESS_PORT", "8081")),
        mode=os.environ.get("MODE", "thread"),
        stuck_after=float(os.environ.get("STUCK_AFTER", "10")),
    )
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), access_log=False)


if __name__ == "__main__":
    main()
