"""Redis and Valkey: the pools of redis-py and valkey-py, synchronous and asynchronous.

A client is a thin thing around its pool, which many make anew for every request: so it is the pool that is watched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, Final

from otel_health import CheckFunc
from otel_health.checks import redis
from otel_health_instrumentation.clients.hooks import Undo, all_of, followed, replace
from otel_health_instrumentation.clients.technology import Answers, Server, Technology, server
from otel_health_instrumentation.guard import guarded


@dataclass(frozen=True, slots=True)
class _Client:
    """What the check wants to see: something that has a pool."""

    connection_pool: Any


def _check(pool: Any) -> CheckFunc:
    return redis.answers(_Client(pool))


def _pool_server(library: str, pool: Any) -> Server:
    settings = pool.connection_kwargs
    service = getattr(pool, "service_name", None)
    if service is not None:
        return server(library, service, None, settings.get("db") or 0)
    place = settings.get("path"), settings.get("host", "localhost"), settings.get("port", 6379)
    return _server(library, *place, settings.get("db"))


@lru_cache(maxsize=256)
def _server(library: str, path: str | None, host: str, port: int, db: int | None) -> Server:
    return server(library, path or host, None if path else port, db or 0)


def _follow(library: str, module: ModuleType, traffic: Answers) -> Undo:
    """Learn from what every connection reads, an answer, and from those that cannot be opened."""

    def tell(told: Callable[[Server], None], connection: Any) -> None:
        place = getattr(connection, "path", None), getattr(connection, "host", ""), getattr(connection, "port", 0)
        try:
            told(_server(library, *place, connection.db))
        except Exception:
            # Not around it all: this is done for every answer.
            with guarded(f"follow the traffic of {library}"):
                raise

    def succeeded(connection: Any, response: object) -> None:
        if response is not None:  # Nothing is what is read when nobody said anything in time, too.
            tell(traffic.succeeded, connection)

    failed = partial(tell, traffic.failed)
    reads = module.AbstractConnection
    return all_of(
        replace(reads, "read_response", followed(reads.read_response, failed, succeeded)),
        *(
            replace(opens, "_connect", followed(opens._connect, failed))  # noqa: SLF001 - `connect` is called for each command.
            for opens in (module.Connection, module.UnixDomainSocketConnection)
        ),
    )


def _technology(library: str) -> Technology:
    modules = f"{library}.connection", f"{library}.asyncio.connection"
    return Technology(
        name=library,
        classes=dict.fromkeys(modules, ("ConnectionPool",)),
        server=partial(_pool_server, library),
        check=_check,
        traffic=dict.fromkeys(modules, partial(_follow, library)),
    )


REDIS: Final = _technology("redis")
VALKEY: Final = _technology("valkey")
