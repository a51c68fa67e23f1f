"""A service whose consumer crashes when it is told to: `.venv/bin/python -m examples.worker`.

    curl -s -X POST 127.0.0.1:8000/poison           a message that the consumer crashes on, whenever it meets it
    watch curl -s '127.0.0.1:8000/readyz?verbose'   it warns, fails, and in the end was given up
    curl -s 127.0.0.1:8000/metrics | grep task      what a dashboard shows meanwhile
    curl -s -X DELETE 127.0.0.1:8000/poison         takes the message away: the next start is well, or
    curl -s -X POST 127.0.0.1:8000/restart          starts it at once, also when it was given up

PORT names another port. The log has a line for each crash, and one when the consumer is given up.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.prometheus import PrometheusExporter
from otel_health.recovery import Supervisor


class Orders:
    """A queue of orders, of which one may be poison."""

    def __init__(self) -> None:
        self.poisoned = False
        self.shipped = 0

    async def consume(self) -> None:
        """Ship orders, one after the other, until one cannot be read."""
        while True:
            await asyncio.sleep(0.01)
            if self.poisoned:
                raise ValueError("cannot read order 17")
            self.shipped += 1


def create_app(*, restart_delay: float = 1.0, max_restarts: int = 6, fail_after: float = 10.0) -> Starlette:
    """Return the service, which gives its consumer up after about two minutes of crashes."""
    orders = Orders()
    exporter = PrometheusExporter(service_name="worker")
    checker = Checker(meter_provider=exporter.meter_provider)
    supervisor = Supervisor(checker)
    drain = Drain(checker, delay=1.0)
    supervisor.start(
        "consumer", orders.consume, restart_delay=restart_delay, max_restarts=max_restarts, fail_after=fail_after
    )

    async def poison(request: Request) -> PlainTextResponse:
        orders.poisoned = request.method == "POST"
        return PlainTextResponse(f"poisoned: {orders.poisoned}, shipped: {orders.shipped}\n")

    async def restart(_: Request) -> PlainTextResponse:
        await supervisor.restart("consumer")
        return PlainTextResponse("restarted\n")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with checker, drain, supervisor:
            yield

    routes = [
        Route("/poison", poison, methods=["POST", "DELETE"]),
        Route("/restart", restart, methods=["POST"]),
        *checker.routes(details="full"),
        exporter.route(),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve on 127.0.0.1, and on nothing else: it shows everything to anybody."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-8s %(message)s")
    uvicorn.run(create_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), access_log=False)


if __name__ == "__main__":
    main()
