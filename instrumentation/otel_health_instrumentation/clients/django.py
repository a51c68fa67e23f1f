"""Django: the databases of its settings, which have no client but the connections of its threads.

The one of the main thread is there as soon as there are models, and lives as long as the process.
"""

from collections.abc import Mapping
from typing import Any, Final

from otel_health import CheckFunc, Failed
from otel_health_instrumentation.clients.postgres import postgresql_server
from otel_health_instrumentation.clients.technology import UNTOLD, Server, Technology, server

_PORTS: Final = {"mysql": 3306, "oracle": 1521}
"""Where a database listens if its settings do not say."""


def _server(connection: Any) -> Server | None:
    said = connection.settings_dict
    name, options = str(said["NAME"] or ""), said.get("OPTIONS") or {}
    match connection.vendor:
        case "unknown":
            return None  # Nobody has said which database there is.
        case "sqlite":
            return None if connection.is_in_memory_db() else server("sqlite", "", None, name)
        case "postgresql":
            return postgresql_server({"host": said["HOST"], "port": said["PORT"], "dbname": name, **_libpq(options)})
        case "mysql":
            return _mysql_server({"host": said["HOST"], "port": said["PORT"], "database": name, **options})
        case kind:
            return server(kind, said["HOST"] or UNTOLD, said["PORT"] or _PORTS.get(kind), name)


def _libpq(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("host", "hostaddr", "port", "dbname", "service") if options.get(name)}


def _mysql_server(said: Mapping[str, Any]) -> Server:
    # What neither settings nor options say may stand in a file that only the driver reads.
    host = said.get("unix_socket") or said["host"] or (UNTOLD if "read_default_file" in said else "localhost")
    is_socket = str(host).startswith("/")
    port = None if is_socket or host == UNTOLD else said["port"] or _PORTS["mysql"]
    return server("mysql", host, port, said.get("db") or said["database"])


def _connects(connection: Any) -> CheckFunc:
    """Return a check that connects as the application does: a connection may be used in its own thread alone."""

    def check() -> None:
        another = type(connection)(dict(connection.settings_dict), connection.alias)
        try:
            another.connect()
            if not another.is_usable():
                raise Failed("the database takes connections and answers no question")
        finally:
            another.close()

    return check


DJANGO: Final = Technology(
    name="django",
    classes={"django.db.backends.base.base": ("BaseDatabaseWrapper",)},
    server=_server,
    check=_connects,
)
