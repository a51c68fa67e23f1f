"""What a dependency's outages do to the probes of a service: to livez and to what is informational, nothing.

On the tests' island (`tests.checks.island`) its `main` has the name server go, and says what it saw.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from operator import methodcaller
from typing import Final

import asyncpg
from httpx2 import ASGITransport, AsyncClient
from redis.asyncio import Redis

from otel_health import Checker, CheckFunc, completes
from otel_health.checks import dns, http
from otel_health.registration import EtcdRegistry, Registration
from tests.checks.island import World
from tests.checks.programs import running
from tests.doubles import eventually
from tests.servers import OwnServer, own_etcd, own_postgres, own_redis
from tests.soak.figure import scaled, silent_checker

INTERVAL: Final = 2.0
TIMEOUT: Final = 1.0
NOTICED: Final = INTERVAL * 1.1 + TIMEOUT + 0.25
"""Seconds in which readiness has to follow: a period with its jitter, the timeout, and what looking costs."""

RECOVERED: Final = INTERVAL * 1.1 + 1.0 + 0.25
"""The same for the way back: a period and the second look."""

IN_TIME: Final = 1.0
"""Seconds in which a kubelet wants its answer, by default."""

WAYS: Final = (
    (methodcaller("pause"), methodcaller("resume")),
    (methodcaller("kill"), methodcaller("start")),
)
"""Frozen, and gone."""


@dataclass
class Seen:
    """What was seen."""

    lives: list[int] = field(default_factory=list)
    """What livez answered, again and again; 0 where that took too long."""
    informational: list[int] = field(default_factory=list)
    """What a probe answered that asks the same, and nothing critical."""
    ready_without: list[int] = field(default_factory=list)
    """What readyz answered while a registry was away."""
    noticed: list[float] = field(default_factory=list)
    """Seconds until readyz failed."""
    recovered: list[float] = field(default_factory=list)
    """Seconds until it passed again."""

    def and_also(self, other: "Seen") -> "Seen":
        """Both."""
        return Seen(*(getattr(self, name) + more for name, more in asdict(other).items()))


@asynccontextmanager
async def probed(checks: dict[str, CheckFunc], scale: float, seen: Seen) -> AsyncIterator[tuple[Checker, AsyncClient]]:
    """Run a service with these checks, and ask its probes each second; gives its Checker, and a client."""
    checker = silent_checker(interval=INTERVAL, timeout=TIMEOUT)
    for name, function in checks.items():
        checker.add(name, function)
        checker.add(f"{name}-too", function, probes={"traffic"}, critical=False)
    checker.add("memory", lambda: True, local=True, probes={"livez"})
    async with checker, AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://soak") as client:

        async def probe() -> None:
            period, due = 1.0 if scale >= 0.5 else 0.1, time.monotonic()
            while True:
                status = (await client.get("/livez")).status_code
                seen.lives.append(status if time.monotonic() - due <= IN_TIME else 0)
                seen.informational.append((await client.get("/traffic")).status_code)
                due = time.monotonic() + period
                await asyncio.sleep(period)

        await becomes(client, 200)
        probing = asyncio.ensure_future(probe())
        yield checker, client
        probing.cancel()


async def becomes(client: AsyncClient, status: int) -> float:
    """Seconds until readyz answers so."""
    begun = time.monotonic()
    while (await client.get("/readyz")).status_code != status:
        if time.monotonic() - begun > NOTICED + 10:
            return float("inf")
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def outages(server: OwnServer, scale: float, seen: Seen, client: AsyncClient) -> None:
    """Freeze a server that is critical, and kill it."""
    for begins, ends in WAYS:
        begins(server)
        seen.noticed.append(await becomes(client, 503))
        await asyncio.sleep(10 * min(scale * 5, 1))
        ends(server)
        await asyncio.to_thread(server.wait_until_ready)
        seen.recovered.append(await becomes(client, 200))


async def of_servers(scale: float) -> Seen:
    """What outages of a Redis and of a PostgreSQL do, and those of a registry."""
    seen = Seen()
    with own_redis() as redis_server, own_postgres() as postgres_server, own_etcd() as etcd_server:
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=postgres_server.port, user="postgres", database="postgres", min_size=0
        )
        redis = Redis(host="127.0.0.1", port=redis_server.port)
        checks: dict[str, CheckFunc] = {"redis": redis.ping, "postgres": completes(pool.fetchval, "SELECT 1")}
        etcd = EtcdRegistry(f"http://127.0.0.1:{etcd_server.port}", ttl=2)
        async with (
            probed(checks, scale, seen) as (checker, client),
            Registration(checker, etcd, service="orders", address="127.0.0.1", port=8000) as registration,
        ):
            for _ in range(scaled(10, scale, 1)):
                await outages(redis_server, scale, seen, client)
                await outages(postgres_server, scale, seen, client)
                for begins, ends in WAYS:
                    begins(etcd_server)
                    await eventually(lambda: not registration.is_registered, 10)
                    await asyncio.sleep(10 * min(scale * 5, 1))
                    seen.ready_without.append((await client.get("/readyz")).status_code)
                    ends(etcd_server)
                    await asyncio.to_thread(etcd_server.wait_until_ready)
                    await eventually(lambda: registration.is_registered, 20)
        await redis.aclose()
        pool.terminate()
    return seen


def name_server() -> AbstractContextManager[OwnServer]:
    """Return the island's name server, in a process of its own; it knows of `shop.test` alone."""
    asks = "import socket; socket.getaddrinfo('shop.test', 80)"
    return running([sys.executable, "-m", "tests.checks.name_server"], 53, asks)


async def main(scale: str) -> dict[str, object]:
    """What outages of the name server do to checks that ask by a name."""
    seen = Seen()
    checks: dict[str, CheckFunc] = {"dns": dns.resolves("shop.test"), "http": http.answers("http://shop.test/")}
    site = await asyncio.start_server(World().answer, "0.0.0.0", 80)
    with name_server() as server:
        async with site, probed(checks, float(scale), seen) as (_, client):
            for _ in range(scaled(10, float(scale), 1)):
                await outages(server, float(scale), seen, client)
    return asdict(seen)
