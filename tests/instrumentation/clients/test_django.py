"""The databases of Django's settings, which no client speaks for but the connections of threads."""

import gc
import threading
from typing import Any

import pytest

from otel_health_instrumentation.clients.postgres import postgresql_server
from tests.instrumentation.clients.watched import watching

pytest.importorskip("django")

from django.conf import settings
from django.db.utils import ConnectionHandler

MYSQL = "django.db.backends.mysql"
POSTGRESQL = "django.db.backends.postgresql"
SQLITE = "django.db.backends.sqlite3"


def databases(**said: Any) -> Any:
    """What an application has as `django.db.connections`."""
    if not settings.configured:
        settings.configure()
    return ConnectionHandler({"default": said})


@pytest.fixture
def pymysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of mysqlclient, as its documentation has it, in a version that Django takes."""
    module = pytest.importorskip("pymysql")
    monkeypatch.setattr(module, "version_info", (2, 2, 8, "final", 0))
    module.install_as_MySQLdb()


@pytest.mark.usefixtures("pymysql")
@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"ENGINE": POSTGRESQL, "NAME": "orders", "HOST": "DB", "PASSWORD": "s3cret"}, "postgresql-db-5432-orders"),
        ({"ENGINE": POSTGRESQL, "NAME": "orders", "HOST": "db", "PORT": 5433}, "postgresql-db-5433-orders"),
        ({"ENGINE": POSTGRESQL, "OPTIONS": {"service": "orders"}}, "postgresql-orders"),
        ({"ENGINE": POSTGRESQL, "NAME": "orders", "HOST": "/run/pg"}, None),
        ({"ENGINE": MYSQL, "NAME": "orders", "HOST": "db", "USER": "s3cret"}, "mysql-db-3306-orders"),
        ({"ENGINE": MYSQL, "NAME": "orders"}, "mysql-localhost-3306-orders"),
        ({"ENGINE": MYSQL, "NAME": "orders", "HOST": "/run/my"}, None),
        ({"ENGINE": MYSQL, "NAME": "orders", "OPTIONS": {"read_default_file": "/my.cnf"}}, "mysql-default-orders"),
        ({"ENGINE": SQLITE, "NAME": "/srv/orders.db"}, "sqlite-srv-orders.db-89e289"),
        ({"ENGINE": SQLITE, "NAME": ":memory:"}, None),
        ({}, None),
    ],
)
def test_a_database_has_the_name_that_other_clients_of_it_have(said: dict[str, Any], name: str | None) -> None:
    """Of its settings, without user or password; none where there is none outside of the process."""
    with watching("django") as application:
        connections = databases(**said)
        connections["default"]
        names = application.names()

    assert "s3cret" not in str(names)
    if name is not None:
        assert names == {name}
    elif str(said.get("HOST", "")).startswith("/"):
        assert len(names) == 1
    else:
        assert names == set()
    assert connections


def test_libpq_is_asked_for_what_the_settings_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django leaves it to libpq."""
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.setenv("PGPORT", "5433")
    with watching("django") as application:
        connections = databases(ENGINE=POSTGRESQL, NAME="orders")
        connections["default"]

        assert application.names() == {postgresql_server({"host": "db", "port": 5433, "dbname": "orders"}).name}


def test_threads_that_end_take_their_connections_along() -> None:
    """As those of an ASGI server, one for each request; what the main thread has stays."""
    with watching("django") as application:
        connections = databases(ENGINE=SQLITE, NAME="/srv/orders.db")
        request = threading.Thread(target=lambda: connections["default"])
        request.start()
        request.join()
        gc.collect()
        assert application.names() == set()

        connections["default"]
        assert application.names() == {"sqlite-srv-orders.db-89e289"}
