"""The smallest service with probes: `.venv/bin/uvicorn examples.five_lines:app`."""

import sqlite3
from contextlib import closing

from starlette.applications import Starlette

from otel_health import Checker

checker = Checker()


@checker.check("database")
def database() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("SELECT 1")


app = Starlette(routes=checker.routes(), lifespan=checker.lifespan)
