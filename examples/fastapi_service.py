"""FastAPI over PostgreSQL and Redis: `.venv/bin/uvicorn examples.fastapi_service:app`.

DATABASE_URL and REDIS_URL say where they are; `make services` starts both at the defaults.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI
from redis.asyncio import Redis

from otel_health import Checker, Degraded
from otel_health.prometheus import PrometheusExporter

DATABASE_URL = os.environ.get("DATABASE_URL", "postgresql://postgres@127.0.0.1:25432/postgres")
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:26379/0")

exporter = PrometheusExporter(service_name="shop")
checker = Checker(timeout=1.0, interval=5.0, meter_provider=exporter.meter_provider)


@asynccontextmanager
async def clients(app: FastAPI) -> AsyncIterator[None]:
    """Open the pools that the service and its checks share, and register the checks on them."""
    async with asyncpg.create_pool(DATABASE_URL, min_size=1) as pool, Redis.from_url(REDIS_URL) as redis:
        app.state.pool, app.state.redis = pool, redis

        async def postgres() -> dict[str, float]:
            await pool.execute("SELECT 1")
            used = pool.get_size() - pool.get_idle_size()
            if used >= 0.9 * pool.get_max_size():
                raise Degraded("the pool is nearly used up", pool_used=used)
            return {"pool_used": used}

        checker.add("postgres", postgres, probes={"readyz", "startupz"})
        checker.add("redis", redis.ping, critical=False)
        yield
        checker.remove("postgres")
        checker.remove("redis")


app = FastAPI(lifespan=checker.lifespan_with(clients))
app.router.routes.extend([*checker.routes(), exporter.route("/metrics")])


@app.get("/visits")
async def visits() -> dict[str, int]:
    """Count one more visit."""
    return {"visits": await app.state.redis.incr("visits")}
