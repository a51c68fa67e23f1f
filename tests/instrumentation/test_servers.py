"""Servers that stand health in front of whatever they have loaded."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from httpx2 import Response
from starlette.responses import PlainTextResponse
from uvicorn import Config

from otel_health_instrumentation import HealthInstrumentor, HealthMiddleware, HealthWSGIMiddleware
from tests.instrumentation.asking import asked_anew
from tests.instrumentation.conftest import Instrument
from tests.instrumentation.test_wsgi import Answer, raw

base = pytest.importorskip("gunicorn.workers.base")
sync = pytest.importorskip("gunicorn.workers.sync")


async def raw_asgi(scope: Any, receive: Any, send: Any) -> None:
    """An application without any framework, which knows of no lifespan."""
    assert scope["type"] == "http"
    await PlainTextResponse("hello")(scope, receive, send)


class Nobody:
    """A middleware that lets nobody in, around whatever application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("who are you?", 401)(scope, receive, send)


def loaded_by_uvicorn(app: Any) -> Callable[[str], Response]:
    """Ask what uvicorn calls for each request."""
    config = Config(app, lifespan="off")
    config.load()
    return asked_anew(config.loaded_app)


def loaded_by_gunicorn(app: Any, kind: type | None = None) -> Any:
    """What a worker of gunicorn calls for each request, of the kind that it has if it is told nothing."""
    worker: Any = object.__new__(kind or sync.SyncWorker)
    worker.app = SimpleNamespace(wsgi=lambda: app)
    worker.load_wsgi()
    return worker.wsgi


@pytest.mark.parametrize(
    ("app", "status"), [(raw_asgi, 200), (Nobody(raw_asgi), 401), (HealthMiddleware(raw_asgi), 200)]
)
def test_whatever_uvicorn_serves(app: Any, status: int, instrument: Instrument) -> None:
    """Of no framework, behind a middleware that lets nobody in, or wrapped by hand already."""
    instrument()
    ask = loaded_by_uvicorn(app)

    assert [ask(path).status_code for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
    assert ask("/").status_code == status


@pytest.mark.parametrize("app", [raw, HealthWSGIMiddleware(raw)])
def test_whatever_gunicorn_serves(app: Any, instrument: Instrument) -> None:
    """Of no framework; and the checks run from the start of the worker, before anybody asks."""
    checker = instrument()
    served = loaded_by_gunicorn(app)

    deadline = time.monotonic() + 5
    while not checker.is_open:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert Answer(served, "/livez").status == 200
    assert Answer(served, "/").body == "hello"


@pytest.mark.parametrize("app", [raw, raw_asgi])
def test_what_other_workers_of_gunicorn_load_is_left_alone(app: Any, instrument: Instrument) -> None:
    """Those of aiohttp and tornado refuse to boot with what is not theirs; uvicorn's loads it by its own `Config`."""
    checker = instrument()

    assert loaded_by_gunicorn(app, type("Theirs", (base.Worker,), {})) is app
    assert not checker.is_open


async def test_the_worker_of_aiohttp_boots(instrument: Instrument) -> None:
    """It awaits a factory, and wants that to be a coroutine function."""
    worker = pytest.importorskip("aiohttp.worker")
    web = pytest.importorskip("aiohttp.web")

    async def factory() -> Any:
        return web.Application()

    instrument()

    assert loaded_by_gunicorn(factory, worker.GunicornWebWorker) is factory


def test_what_is_loaded_when_it_is_over_is_left_alone(instrument: Instrument) -> None:
    """Servers load what they are given then, and nothing stands in front of it."""
    instrument()
    HealthInstrumentor().uninstrument()

    assert loaded_by_uvicorn(raw_asgi)("/livez").text == "hello"
    assert loaded_by_gunicorn(raw) is raw
