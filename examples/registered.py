"""A service that is in etcd for as long as it is ready, and stays ready where its database is gone for every replica.

    make services                                             # an etcd on port 22379
    PORT=8001 .venv/bin/python -m examples.registered &       # and another one at PORT=8002
    .venv/bin/python -m examples.registered members           # who is there, and how they feel
    touch /tmp/8001.broken                                    # one loses its database: it fails
    touch /tmp/8002.broken                                    # all have: they warn, and stay

ETCD names another etcd, SERVICE another service. SIGTERM withdraws the instance first, and ends the service two seconds
later.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from otel_health import Checker
from otel_health.lifecycle import Drain
from otel_health.registration import EtcdRegistry, Registration, fail_open

SERVICE = os.environ.get("SERVICE", "registered-example")


def registry() -> EtcdRegistry:
    """Where the replicas meet."""
    return EtcdRegistry(os.environ.get("ETCD", "http://127.0.0.1:22379"))


def create_app(port: int, *, broken: Path) -> Starlette:
    """Return a replica; while there is a file `broken`, it has lost its database."""
    checker = Checker(interval=1.0)
    drain = Drain(checker, delay=2.0)
    registration = Registration(checker, registry(), service=SERVICE, address="127.0.0.1", port=port, drain=drain)

    def database() -> None:
        if broken.exists():
            raise ConnectionError("the database is gone")

    checker.add("database", fail_open("database", database, registration))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with drain, checker, registration:
            yield

    return Starlette(routes=checker.routes(), lifespan=lifespan, middleware=[Middleware(drain.middleware)])


async def show_members() -> None:
    """Print who is registered, and how they feel."""
    for member in await registry().members(SERVICE):
        print(member.instance.id, member.standing.status, member.standing.output)


if __name__ == "__main__":
    if "members" in sys.argv:
        asyncio.run(show_members())
    else:
        port = int(os.environ.get("PORT", "8001"))
        uvicorn.run(create_app(port, broken=Path(f"/tmp/{port}.broken")), port=port, log_level="warning")
