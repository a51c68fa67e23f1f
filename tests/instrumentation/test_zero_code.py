"""Applications that know nothing of health, started by `opentelemetry-instrument` under the servers that people use."""

import json
import re
import time
from pathlib import Path
from typing import Final

import pytest

from tests.instrumentation.instrumented import (
    GUNICORN,
    PROBES,
    STARTED,
    UVICORN,
    UVICORN_WORKERS,
    body,
    instrumented,
    spans,
    waits_to_say,
)
from tests.servers import free_port, own_postgres, own_redis
from tests.services import PATIENCE

pytest.importorskip("opentelemetry.distro")

SERVED: Final = {
    "FastAPI, uvicorn": (*UVICORN, "books_fastapi:app"),
    "Starlette, uvicorn that reloads": (*UVICORN, "--reload", "books_starlette:app"),
    "Starlette, gunicorn with uvicorn workers, preloaded": (*UVICORN_WORKERS, "--preload", "books_starlette:app"),
    "Flask, gunicorn": (*GUNICORN, "books_flask:app"),
    "Flask, gunicorn with threads, preloaded": (*GUNICORN, "--preload", "--threads", "2", "books_flask:app"),
    "Django, uvicorn": (*UVICORN, "mysite.asgi:application"),
}


@pytest.mark.parametrize("command", SERVED.values(), ids=SERVED)
def test_unmodified_applications_have_health(command: tuple[str, ...], tmp_path: Path) -> None:
    """Every probe and the metrics, in every worker; and in nobody's traces or HTTP metrics."""
    with instrumented(tmp_path, *command) as service:
        service.waits_for("/", 200, STARTED)
        for path in PROBES:
            service.waits_for(path, 200)
        deadline = time.monotonic() + PATIENCE
        while json.loads(body(service, "/readyz"))["status"] != "pass":  # Every client has to be asked once.
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(8):
            assert {path: service.get(path) for path in PROBES} == dict.fromkeys(PROBES, 200)
        metrics = body(service, "/metrics")
        deadline = time.monotonic() + PATIENCE
        while not spans(service):
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)
        assert 'otel_health_probe_up{probe="readyz"} 1.0' in metrics
        of_requests = [line for line in metrics.splitlines() if line.startswith("http_server")]
        assert not [line for line in of_requests for probe in (*PROBES, "/metrics") if probe in line]
        assert not [name for name in spans(service) for probe in (*PROBES, "/metrics") if probe in name], service.log
        assert "health: could not" not in service.log


@pytest.mark.parametrize("command", [SERVED["FastAPI, uvicorn"], SERVED["Flask, gunicorn"]], ids=["FastAPI", "Flask"])
def test_a_dependency_that_fails_fails_its_component(command: tuple[str, ...], tmp_path: Path) -> None:
    """A server of the test's own is stopped, and started again: the application's client is asked, and nobody else."""
    with own_redis() as redis:
        component = f"redis-127.0.0.1-{redis.port}-0"
        said = {"OTEL_HEALTH_INTERVAL": "0.2", "OTEL_HEALTH_CRITICAL": "redis-*"}
        with instrumented(tmp_path, *command, REDIS_URL=f"redis://127.0.0.1:{redis.port}/0", **said) as service:
            service.waits_for(f"/readyz/{component}", 200, STARTED)
            service.waits_for("/readyz", 200)

            redis.kill()
            for path in (f"/readyz/{component}", "/readyz"):
                service.waits_for(path, 503)
            assert [service.get(f"/{probe}") for probe in ("livez", "startupz")] == [200, 200]
            waits_to_say(service, "/metrics", f'otel_health_check_up{{component="{component}"}} 0.0')

            redis.start()
            service.waits_for(f"/readyz/{component}", 200)
            service.waits_for("/readyz", 200)


def test_an_asyncio_client_is_asked_on_its_own_loop(tmp_path: Path) -> None:
    """A pool that the lifespan opens, in every worker; its server is stopped, and started again."""
    with own_postgres() as postgres:
        component = f"postgresql-127.0.0.1-{postgres.port}-postgres"
        url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
        command = SERVED["Starlette, gunicorn with uvicorn workers, preloaded"]
        with instrumented(tmp_path, *command, DATABASE_URL=url, OTEL_HEALTH_INTERVAL="0.2") as service:
            service.waits_for(f"/readyz/{component}", 200, STARTED)

            postgres.kill()
            service.waits_for(f"/readyz/{component}", 503)
            assert service.get("/readyz") == 200  # It only warns: nobody has called it critical.

            postgres.start()
            service.waits_for(f"/readyz/{component}", 200)


def test_several_workers_are_seen_as_one(tmp_path: Path) -> None:
    """Where the operator says so: one scrape shows both, and one liveness port speaks for both."""
    port = free_port()
    said = {"OTEL_HEALTH_WORKERS": "true", "OTEL_HEALTH_LIVENESS_PORT": str(port)}
    with instrumented(tmp_path, *SERVED["Flask, gunicorn"], **said) as service:
        service.waits_for("/healthz/workers", 200, STARTED)
        deadline = time.monotonic() + PATIENCE
        line = re.compile(r'^otel_health_probe_up\{service_instance_id="(\d+)",probe="livez"\} 1\.0$', re.MULTILINE)
        while len(set(line.findall(metrics := body(service, "/metrics")))) < 2:
            assert time.monotonic() < deadline, metrics
            time.sleep(0.05)
        service.port = port
        service.waits_for("/livez", 200)


def test_one_variable_turns_everything_off(tmp_path: Path) -> None:
    """Then it is as if nothing was installed."""
    said = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "health"}
    with instrumented(tmp_path, *SERVED["Flask, gunicorn"], **said) as service:
        service.waits_for("/", 200, STARTED)
        assert [service.get(path) for path in (*PROBES, "/metrics")] == [404] * 5
