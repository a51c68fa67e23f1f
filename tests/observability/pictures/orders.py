"""One of three instances of a service, and what happens to it within some four minutes."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from otel_health import Checker, Degraded
from otel_health.lifecycle import LivenessServer
from otel_health.prometheus import PrometheusExporter

BEGINS = float(os.environ["BEGINS"])
INSTANCE = os.environ["INSTANCE"]

exporter = PrometheusExporter(service_name="orders")
checker = Checker(interval=1.0, timeout=1.0, meter_provider=exporter.meter_provider)


def within(begin: float, end: float) -> bool:
    """Whether the picture is so many seconds old."""
    return begin < time.time() - BEGINS < end


async def reconnect() -> None:
    """Take a while to connect anew, in vain."""
    await asyncio.sleep(0.5)


@checker.check("postgres")
async def postgres() -> dict[str, float]:
    """Is busy for a while, on all instances."""
    busy = within(60, 95)
    await asyncio.sleep(random.lognormvariate(-5.2, 0.8) + 0.12 * busy)
    return {"pool_used": random.randint(6, 9) + 6 * busy}


@checker.check("redis", critical=False)
async def redis() -> None:
    """Is away for a while, from one instance."""
    await asyncio.sleep(random.lognormvariate(-6.5, 0.5))
    if INSTANCE == "b" and within(40, 75):
        raise ConnectionRefusedError


@checker.check("orders-queue")
async def orders_queue() -> dict[str, float]:
    """Grows longer, until it warns."""
    age = time.time() - BEGINS
    waiting = 2_000 + 18_000 * min(1.0, max(0.0, (age - 140) / 30)) * random.uniform(0.9, 1.1)
    await asyncio.sleep(random.lognormvariate(-4.5, 0.4))
    if waiting > 10_000:
        raise Degraded(f"{waiting:.0f} messages waiting", backlog=waiting)
    return {"backlog": waiting}


@checker.check("payments", recover=reconnect)
async def payments() -> dict[str, float]:
    """Hangs everywhere for a while, and in the end fails on one instance."""
    open_requests = random.randint(2, 6)
    await asyncio.sleep(random.lognormvariate(-2.6, 0.5) + 5 * within(120, 125))
    if INSTANCE == "c" and within(195, 3600):
        raise ConnectionResetError
    return {"open_requests": open_requests}


@checker.check("search", critical=False)
async def search() -> None:
    """Comes and goes on one instance."""
    await asyncio.sleep(random.lognormvariate(-3.8, 0.4))
    if INSTANCE == "a" and any(within(begin, begin + 7) for begin in range(20, 90, 14)):
        raise OSError


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Be scraped at a port that answers whatever the loop does."""
    async with checker, LivenessServer(checker, port=int(os.environ["LIVENESS"]), metrics=exporter):
        yield


app = Starlette(routes=[*checker.routes(), exporter.route("/metrics")], lifespan=lifespan)
