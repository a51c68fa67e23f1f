"""Applications that are started by `opentelemetry-instrument`, and what they answer."""

import http.client
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.instrumentation.processes import IMPORTED
from tests.servers import free_port, shared_postgres, shared_redis
from tests.services import PATIENCE, Service

INSTRUMENT: Final = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
PROBES: Final = ("/livez", "/readyz", "/startupz", "/healthz")
STARTED: Final = 90.0
"""Seconds that one may take to start, on a busy machine: several interpreters, each with all of OpenTelemetry."""
QUIET: Final = {
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_BSP_SCHEDULE_DELAY": "50",
}
"""Spans are printed, at once, so that one can see which there are."""

UVICORN: Final = ("uvicorn", "--log-level", "warning", "--port", "{port}")
GUNICORN: Final = ("gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "-w", "2")
UVICORN_WORKERS: Final = (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker")


@contextmanager
def instrumented(directory: Path, *command: str, **environment: str) -> Iterator[Service]:
    """Run an application under a server, and both under `opentelemetry-instrument`."""
    port = free_port()
    environment = {
        **QUIET,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "apps"), IMPORTED]),
        "DJANGO_SETTINGS_MODULE": "mysite.settings",  # What OpenTelemetry's own instrumentor of Django asks for.
        "DATABASE_URL": f"postgresql+psycopg://postgres@127.0.0.1:{shared_postgres()}/postgres",
        "REDIS_URL": f"redis://127.0.0.1:{shared_redis()}/0",
        **environment,
    }
    started = ["-c", INSTRUMENT, *(word.format(port=port) for word in command)]
    service = Service(started, port, directory, environment)
    try:
        yield service
    finally:
        service.close()


def body(service: Service, path: str) -> str:
    """What it answers."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def waits_to_say(service: Service, path: str, line: str) -> None:
    """Wait until it answers with this."""
    deadline = time.monotonic() + PATIENCE
    while line not in (answer := body(service, path)):
        assert time.monotonic() < deadline, f"{path} does not say {line}:\n{answer}"
        time.sleep(0.005)


def spans(service: Service) -> list[str]:
    """The names of the spans that it has printed."""
    return [line.split('"')[3] for line in service.log.splitlines() if line.startswith('    "name"')]
