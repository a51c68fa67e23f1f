"""SQLAlchemy: its engines, synchronous and asynchronous."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from otel_health import CheckFunc
from otel_health.checks import sqlalchemy
from otel_health_instrumentation.clients.hooks import Undo, on_made
from otel_health_instrumentation.clients.technology import UNTOLD, Answers, Server, Technology, server
from otel_health_instrumentation.clients.traffic import within_a_check

_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "oracle": 1521, "mssql": 1433}
"""Where a database listens if its URL does not say; so it has one name however it is spelled."""


_PLACES: Final = ("host", "hostaddr", "service", "dsn", "unix_socket")
"""What drivers are told of a server in the query of a URL."""


def _server(engine: Any) -> Server | None:
    url = engine.url
    kind = url.get_backend_name()
    if url.host is None and url.database in (None, "", ":memory:"):
        # Nothing outside this process could fail: a database in memory. Or only the driver knows where it goes.
        return (
            None if kind == "sqlite" else server(kind, _queried(url.query) or UNTOLD, None, url.query.get("dbname", ""))
        )
    if url.host is None:
        return server(kind, _queried(url.query), None, url.database)
    return server(kind, url.host, url.port or _PORTS.get(kind), url.database or "")


def _queried(query: Mapping[str, Any]) -> str:
    """What a URL says of its server behind the question mark; a connection string in there may hold a password."""
    for name in _PLACES:
        said = query.get(name, "")
        place = said if isinstance(said, str) else ",".join(said)
        if place and "=" not in place:
            return place
    return ""


def _check(engine: Any) -> CheckFunc:
    if engine.dialect.is_async:
        return _on_a_connection_of_its_own(engine)
    return sqlalchemy.answers(engine, query=_query(engine))


def _on_a_connection_of_its_own(engine: Any) -> CheckFunc:
    """Return a check that opens a connection as the engine would, and closes it.

    Those in the pool belong to the event loop that first used the engine, which nobody knows: asked on another one
    they would break, for the application too.
    """
    base, asyncio = import_module("sqlalchemy.engine.base"), import_module("sqlalchemy.ext.asyncio")
    twin = asyncio.AsyncEngine(base.Engine(engine.pool.recreate(), engine.dialect, engine.url))
    answers = sqlalchemy.answers(twin, query=_query(engine))

    async def check() -> None:
        try:
            await answers()  # type: ignore[misc] # It is async, as the twin is.
        finally:
            await twin.dispose()

    return check


def _query(engine: Any) -> str:
    """The shortest query in the words of this database: some want a table to select from."""
    sql = import_module("sqlalchemy")
    return str(sql.select(sql.text("1")).compile(dialect=engine.dialect))


def _follow(module: ModuleType, traffic: Answers) -> Undo:
    """Learn from what every engine that is made executes: what it is done with, its server has answered."""
    followed: WeakKeyDictionary[Any, Mapping[str, Callable[..., None]]] = WeakKeyDictionary()

    def listen(engine: Any, *_: object) -> None:
        found = _server(engine)
        if found is None or within_a_check():
            return

        def executed(*_: object) -> None:
            traffic.succeeded(found)

        def failed(*_: object) -> None:
            traffic.failed(found)

        # Now, while nobody can use it: whoever is told of an event must not find the list of listeners changed.
        followed[engine] = {"after_cursor_execute": executed, "handle_error": failed}
        for name, listener in followed[engine].items():
            import_module("sqlalchemy.event").listen(engine, name, listener)

    made = on_made(module.Engine, listen)

    def undo() -> None:
        made()
        for engine, listeners in list(followed.items()):
            for name, listener in listeners.items():
                import_module("sqlalchemy.event").remove(engine, name, listener)

    return undo


SQLALCHEMY: Final = Technology(
    name="sqlalchemy",
    classes={"sqlalchemy.engine.base": ("Engine",)},
    server=_server,
    check=_check,
    traffic={"sqlalchemy.engine.base": _follow},
)
