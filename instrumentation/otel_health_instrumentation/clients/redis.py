"""Redis and Valkey: the pools of redis-py and valkey-py, synchronous and asynchronous.

A client is a thin thing around its pool, which many make anew for every request: so it is the pool that is watched.
"""

from dataclasses import dataclass
from typing import Any, Final

from otel_health import CheckFunc
from otel_health.checks import redis
from otel_health_instrumentation.clients.technology import Server, Technology, server


@dataclass(frozen=True, slots=True)
class _Client:
    """What the check wants to see: something that has a pool."""

    connection_pool: Any


def _check(pool: Any) -> CheckFunc:
    return redis.answers(_Client(pool))


def _technology(library: str) -> Technology:
    def found(pool: Any) -> Server | None:
        settings = pool.connection_kwargs
        host = getattr(pool, "service_name", None) or settings.get("path") or settings.get("host", "localhost")
        at_host = not hasattr(pool, "service_name") and "path" not in settings
        return server(library, host, settings.get("port", 6379) if at_host else None, settings.get("db") or 0)

    pools = ("ConnectionPool",)
    classes = {f"{library}.connection": pools, f"{library}.asyncio.connection": pools}
    return Technology(name=library, classes=classes, server=found, check=_check)


REDIS: Final = _technology("redis")
VALKEY: Final = _technology("valkey")
