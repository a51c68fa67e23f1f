"""Applications that others have written, as they are, under the servers that people use, with real databases."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import pytest

from tests.instrumentation.instrumented import (
    GUNICORN,
    PROBES,
    STARTED,
    UVICORN,
    UVICORN_WORKERS,
    instrumented,
    waits_to_say,
)
from tests.instrumentation.third_party import (
    Application,
    Ports,
    django_project,
    fastapi_project,
    fetched,
    flask_application,
    starlette_project,
)
from tests.servers import OwnServer, own_postgres, own_redis

pytest.importorskip("opentelemetry.distro")

POSTGRES: Final = "postgresql-127.0.0.1-{postgres}-{database}"
REDIS: Final = "redis-127.0.0.1-{redis}-0"


class Servers(NamedTuple):
    """The servers that are stopped and started."""

    postgres: OwnServer
    redis: OwnServer

    @property
    def ports(self) -> Ports:
        """Where they listen."""
        return Ports(self.postgres.port, self.redis.port)


class Kind(NamedTuple):
    """A kind of application."""

    make: Callable[[Path, Path, Ports], Application]
    page: str
    """A page of its own, which asks what it depends on if it can."""
    components: tuple[str, ...]
    """The first is the one whose server is stopped."""


FASTAPI: Final = Kind(fastapi_project, "/api/redis/?key=orders", (REDIS, POSTGRES))
STARLETTE: Final = Kind(starlette_project, "/admin/", (POSTGRES,))
DJANGO: Final = Kind(django_project, "/", (POSTGRES,))
FLASK: Final = Kind(flask_application, "/rq-dashboard/", (REDIS,))

PATIENTLY: Final = ("--timeout-worker-healthcheck", "60")
"""A worker that takes longer than five seconds to start is started anew, without end; a busy machine takes as long."""

SERVED: Final = {
    "FastAPI, uvicorn": (FASTAPI, (*UVICORN, "--factory", "orders.web.application:get_app")),
    "FastAPI, gunicorn with uvicorn workers": (FASTAPI, (*UVICORN_WORKERS, "orders.web.application:get_app()")),
    "Starlette, uvicorn with workers": (STARLETTE, (*UVICORN, *PATIENTLY, "--workers", "2", "app:app")),
    "Starlette, gunicorn with uvicorn workers, preloaded": (STARLETTE, (*UVICORN_WORKERS, "--preload", "app:app")),
    "Django, gunicorn": (DJANGO, (*GUNICORN, "example.wsgi")),
    "Django, uvicorn": (DJANGO, (*UVICORN, "example.asgi:application")),
    "Flask, gunicorn with gevent workers": (FLASK, (*GUNICORN, "-k", "gevent", "rq_dashboard.app:create_app()")),
    "Flask, gunicorn, preloaded": (FLASK, (*GUNICORN, "--preload", "rq_dashboard.app:create_app()")),
}


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> Path:
    """Where the applications are."""
    assert pytestconfig.cache is not None
    return fetched(pytestconfig.cache)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Servers of the tests' own, with the databases that the applications want."""
    with own_postgres() as postgres, own_redis() as redis:
        dsn = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE ROLE debug_toolbar SUPERUSER LOGIN")
            connection.execute("CREATE DATABASE debug_toolbar")
            connection.execute("CREATE DATABASE orders")
        yield Servers(postgres, redis)


@pytest.mark.parametrize(("kind", "command"), SERVED.values(), ids=SERVED)
def test_applications_of_others_have_health(
    kind: Kind, command: tuple[str, ...], packages: Path, servers: Servers, tmp_path: Path
) -> None:
    """Every probe and the metrics; when a server is stopped its component fails and no other, until it is started."""
    application = kind.make(packages, tmp_path, servers.ports)
    database = "debug_toolbar" if kind is DJANGO else "orders"
    lost, *others = (each.format(**servers.ports._asdict(), database=database) for each in kind.components)
    server = servers.redis if lost.startswith("redis") else servers.postgres
    environment = {"OTEL_HEALTH_INTERVAL": "0.2", **application.environment}
    with instrumented(application.directory, *command, **environment) as service:
        service.waits_for("/livez", 200, STARTED)
        service.waits_for(kind.page, 200)
        for component in (lost, *others):
            service.waits_for(f"/readyz/{component}", 200)
            waits_to_say(service, "/metrics", f'otel_health_check_up{{component="{component}"}} 1.0')
        for probe in PROBES:
            service.waits_for(probe, 200)

        server.kill()
        service.waits_for(f"/readyz/{lost}", 503)
        for component in others:
            service.waits_for(f"/readyz/{component}", 200)

        server.start()
        server.wait_until_ready()
        service.waits_for(f"/readyz/{lost}", 200)
        service.waits_for(kind.page, 200)
        assert "health: could not" not in service.log
