"""PostgreSQL: the pools and lasting connections of asyncpg, and the pools of psycopg 3."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakKeyDictionary

from otel_health import CheckFunc
from otel_health.check import is_async
from otel_health.checks import postgres
from otel_health_instrumentation.clients.hooks import Undo, all_of, followed, replace
from otel_health_instrumentation.clients.technology import UNTOLD, Answers, Server, Technology, server
from otel_health_instrumentation.guard import guarded


def postgresql_server(said: Mapping[str, Any]) -> Server:
    """Return the server that settings speak of, where what they leave out is said by libpq's variables."""
    # The database of whoever does not say which has the user's name, and that is nobody's business.
    database = said.get("dbname") or os.environ.get("PGDATABASE") or ""
    host = said.get("host") or said.get("hostaddr")
    service = said.get("service") or os.environ.get("PGSERVICE")
    if not host and service:
        return server("postgresql", service, None, database)  # Where that is, a file knows.
    host = host or os.environ.get("PGHOST") or os.environ.get("PGHOSTADDR") or "localhost"
    port = said.get("port") or os.environ.get("PGPORT") or 5432
    if isinstance(port, str) and not port.replace(",", "").isdigit():
        return server("postgresql", UNTOLD)  # It is a part of a password that should have been escaped.
    if isinstance(host, list | tuple):
        host = ",".join(host)
    several = isinstance(port, list | tuple) or not str(port).isdigit()
    return server("postgresql", f"{host}:{port}" if several else host, None if several else port, database)


# asyncpg. Its pool cannot be held weakly, but the first of the places that it keeps for its connections can.


def _asyncpg_server(place: Any) -> Server | None:
    pool = place._pool  # noqa: SLF001 - there is no other way to learn these, here and below.
    if pool._holders[0] is not place:  # noqa: SLF001
        return None
    settings = pool._connect_kwargs  # noqa: SLF001
    dsn = (*pool._connect_args, settings.get("dsn"))[0]  # noqa: SLF001
    said = {"dbname": settings.get("database"), **settings}
    return postgresql_server(
        {**_of_url(dsn or ""), **{name: value for name, value in said.items() if value is not None}}
    )


def _of_url(dsn: str) -> dict[str, Any]:
    parts = urlsplit(dsn)
    hosts = parts.netloc.rpartition("@")[2]
    host, _, port = (hosts, "", "") if "," in hosts or hosts.endswith("]") else hosts.rpartition(":")
    said = {"host": unquote(host or port), "port": port if host else ""}
    queried = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return {**said, "dbname": unquote(parts.path.removeprefix("/")), **queried}


def _follow(module: ModuleType, traffic: Answers) -> Undo:
    """Learn from every connection that comes back to its pool: it was reset, and the server has answered that."""
    kind = module.PoolConnectionHolder
    servers: WeakKeyDictionary[Any, Server | None] = WeakKeyDictionary()

    def tell(told: Callable[[Server], None], place: Any) -> None:
        with guarded("follow the traffic of asyncpg"):
            if place not in servers:
                servers[place] = _asyncpg_server(place._pool._holders[0])  # noqa: SLF001
            found = servers[place]
            if found is not None:
                told(found)

    failed = partial(tell, traffic.failed)

    def released(place: Any, _: object) -> None:
        connection = place._con  # noqa: SLF001
        if connection is None or connection.is_closed():
            failed(place)
        elif place._pool._reset is None and connection.get_reset_query():  # noqa: SLF001
            tell(traffic.succeeded, place)

    return all_of(
        replace(kind, "release", followed(kind.release, failed, released)),
        replace(kind, "acquire", followed(kind.acquire, failed)),
        # A connection that broke is not given back; one that was closed for being idle costs us a question.
        replace(kind, "_release_on_close", followed(kind._release_on_close, failed, lambda place, _: failed(place))),  # noqa: SLF001
    )


ASYNCPG: Final = Technology(
    name="asyncpg",
    classes={"asyncpg.pool": ("PoolConnectionHolder",)},
    server=_asyncpg_server,
    check=lambda place: postgres.answers(place._pool),  # noqa: SLF001
    usable=lambda place: not place._pool.is_closing(),  # noqa: SLF001
    loop=lambda place: place._pool._loop,  # noqa: SLF001
    traffic={"asyncpg.pool": _follow},
)


# A connection can do one thing at a time, and the application does it: so it is its server that is asked.


def _connection_server(connection: Any) -> Server | None:
    if connection._pool_holder is not None:  # noqa: SLF001
        return None
    host, port = _address(connection)
    settings = connection._params  # noqa: SLF001
    # Where no database was said it has the user's name, which is to be in no name of ours.
    return server("postgresql", host, port, "" if settings.database == settings.user else settings.database)


def _address(connection: Any) -> tuple[str, int]:
    address = connection._addr  # noqa: SLF001
    host, port = address if isinstance(address, tuple) else address.rsplit("/.s.PGSQL.", 1)
    return host, int(port)


def _connects(connection: Any) -> CheckFunc:
    (host, port), settings = _address(connection), connection._params  # noqa: SLF001
    asyncpg = import_module("asyncpg")

    async def check() -> None:
        another = await asyncpg.connect(
            host=host,
            port=port,
            user=settings.user,
            password=settings.password,
            database=settings.database,
            # What is required has a context of its own; the rest is a matter of taste, such as "prefer".
            ssl=settings.ssl if settings.sslmode >= settings.sslmode.require else settings.sslmode.name,
            server_settings=settings.server_settings,
        )
        try:
            await another.fetchval("SELECT 1")
        finally:
            another.terminate()

    return check


ASYNCPG_CONNECTIONS: Final = Technology(
    name="asyncpg-connections",
    classes={"asyncpg.connection": ("Connection",)},
    server=_connection_server,
    check=_connects,
)


# psycopg.


def _psycopg_server(pool: Any) -> Server | None:
    if not isinstance(pool.conninfo, str):
        return None  # Whoever is called for it may answer otherwise every time.
    settings = pool.kwargs if isinstance(pool.kwargs, dict) else {}
    psycopg = import_module("psycopg")
    try:
        said = psycopg.conninfo.conninfo_to_dict(pool.conninfo)
    except psycopg.ProgrammingError:
        return server("postgresql", UNTOLD)  # Its message quotes what it could not read: nobody is told.
    known = {name: settings[name] for name in ("host", "hostaddr", "port", "dbname", "service") if name in settings}
    return postgresql_server({**said, **known})


def _psycopg_loop(pool: Any) -> Any:
    return pool._workers[0].get_loop() if is_async(pool.check) else None  # noqa: SLF001


PSYCOPG: Final = Technology(
    name="psycopg",
    classes={"psycopg_pool.pool": ("ConnectionPool",), "psycopg_pool.pool_async": ("AsyncConnectionPool",)},
    server=_psycopg_server,
    check=postgres.answers,
    usable=lambda pool: not pool.closed and bool(pool._workers),  # noqa: SLF001
    loop=_psycopg_loop,
)
