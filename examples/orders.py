"""An orders service on SQLite, with its probes, its metrics and something to break: `make run`."""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from otel_health import Checker, threshold
from otel_health.checks import disk, process
from otel_health.prometheus import PrometheusExporter


class Orders:
    """The orders that were taken and not shipped yet, in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._database("rwc") as database:
            database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")

    def take(self, item: str) -> int:
        """Write down one more order and return its number."""
        with self._database() as database:
            return int(database.execute("INSERT INTO orders (item) VALUES (?)", (item,)).lastrowid or 0)

    def ship(self) -> int:
        """Ship everything and return how many orders that were."""
        with self._database() as database:
            return database.execute("DELETE FROM orders").rowcount

    def waiting(self) -> int:
        """Return how many orders wait."""
        with self._database() as database:
            return int(database.execute("SELECT count(*) FROM orders").fetchone()[0])

    @contextmanager
    def _database(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """One transaction; `rw` never creates the file, so that a missing one is an error."""
        connection = sqlite3.connect(f"file:{self.path}?mode={mode}", uri=True, timeout=1.0)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


def create_app(path: Path, *, interval: float = 2.0) -> Starlette:
    """Return the service, with its orders kept at `path` and its checks renewed every `interval` seconds."""
    orders = Orders(path)
    exporter = PrometheusExporter(service_name="orders")
    checker = Checker(
        interval=interval, timeout=1.0, service_id="orders", version="1.0.0", meter_provider=exporter.meter_provider
    )
    checker.add("database", lambda: {"orders": orders.waiting()}, probes={"readyz", "startupz"})
    checker.add("backlog", threshold(orders.waiting, warn=10, fail=1000, observation="waiting"), critical=False)
    checker.add("disk", disk.usage(path.parent), local=True, critical=False, interval=30.0)
    checker.add("memory", process.resident_memory(warn=500e6), local=True, critical=False)

    async def take(request: Request) -> JSONResponse:
        item = request.query_params.get("item", "something")
        return JSONResponse({"order": await run_in_threadpool(orders.take, item)}, status_code=201)

    async def waiting(_: Request) -> JSONResponse:
        return JSONResponse({"waiting": await run_in_threadpool(orders.waiting)})

    async def ship(_: Request) -> JSONResponse:
        return JSONResponse({"shipped": await run_in_threadpool(orders.ship)})

    return Starlette(
        routes=[
            Route("/orders", take, methods=["POST"]),
            Route("/orders", waiting),
            Route("/orders", ship, methods=["DELETE"]),
            *checker.routes(),
            exporter.route("/metrics"),
        ],
        lifespan=checker.lifespan,
    )


GUIDE = """
orders is at http://127.0.0.1:{port} (elsewhere: make run PORT=8001), its database at {path}

look      http://127.0.0.1:{port}/healthz in a browser
          curl -s  '127.0.0.1:{port}/readyz?verbose'
          curl -s  127.0.0.1:{port}/healthz
          curl -si 127.0.0.1:{port}/livez       (and /startupz, /readyz/database)
          curl -s  127.0.0.1:{port}/metrics | grep check_up

break it  mv {path} {path}.away       the database is gone: readyz 503, livez stays 200
watch     while sleep 1; do curl -s '127.0.0.1:{port}/readyz?verbose'; done
why       the log below says why; anonymous answers never do
heal it   mv {path}.away {path}       ready again within 2 s

degrade   for i in $(seq 12); do curl -sX POST 127.0.0.1:{port}/orders; done      backlog warns
recover   curl -sX DELETE 127.0.0.1:{port}/orders
"""


def main() -> None:
    """Serve at the address and the port that HOST and PORT name, 127.0.0.1 and 8000 by default."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)-8s %(message)s")
    port = int(os.environ.get("PORT", "8000"))
    path = Path(os.environ.get("ORDERS_DATABASE", Path(tempfile.mkdtemp(prefix="orders-")) / "orders.sqlite3"))
    app = create_app(path)
    print(GUIDE.format(port=port, path=path), flush=True)
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=port, access_log=False)


if __name__ == "__main__":
    main()
