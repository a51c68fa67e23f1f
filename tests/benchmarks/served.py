"""One server of so many components with one check: `python -m tests.benchmarks.served KIND NUMBER PORT CHECK`."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import uvicorn
from gunicorn.app.base import BaseApplication
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_health import Checker
from otel_health.http.render import Details
from otel_health_instrumentation import HealthInstrumentor
from tests.benchmarks import peers
from tests.benchmarks.asked import answer
from tests.benchmarks.peers import CheckFunc

WSGIApp = Callable[..., Iterable[bytes]]

RAN: Final = b"\1"
"""What `counted` writes to standard output whenever it runs."""


async def nothing(*_: object) -> None:
    """A check that does nothing."""


async def counted(*_: object) -> None:
    """A check that takes a moment, and tells whoever started this server that it ran."""
    os.write(sys.stdout.fileno(), RAN)
    await asyncio.sleep(0.05)


async def hanging(*_: object) -> None:
    """A check that waits for what never comes."""
    await asyncio.Event().wait()


async def stubborn(*_: object) -> None:
    """A check that hangs and swallows its cancellation, as one does that catches everything and tries again."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


CHECKS: Final[dict[str, CheckFunc]] = {each.__name__: each for each in (nothing, counted, hanging, stubborn)}


class Constant:
    """An ASGI endpoint that always sends the same bytes."""

    def __init__(self, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self._start = {"type": "http.response.start", "status": 200, "headers": headers}
        self._body = {"type": "http.response.body", "body": body}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape.
        """Answer one request."""
        await send(self._start)
        await send(self._body)


def checker_of(number: int, check: CheckFunc = nothing, **options: float) -> Checker:
    """A Checker of so many components, and no metrics: the peers have none."""
    checker = Checker(**options)  # type: ignore[arg-type]
    for each in range(number):
        checker.add(f"check-{each}", check)
    return checker


def starlette(number: int, check: CheckFunc) -> ASGIApp:  # noqa: ARG001 - as all kinds are made.
    """Bare Starlette: what an application writes that checks nothing."""

    async def readyz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "pass"})

    return Starlette(routes=[Route("/readyz", readyz)])


def raw(number: int, check: CheckFunc) -> ASGIApp:  # noqa: ARG001 - as all kinds are made.
    """The limit of the server."""
    return Constant(b'{"status":"pass"}')


def constant(target: str, details: Details, number: int, check: CheckFunc) -> ASGIApp:
    """The limit of a Starlette route that sends as many bytes as ours does."""
    checker = checker_of(number, check, ttl=60.0)

    async def passing() -> bytes:
        await checker.run()
        return await answer(checker.asgi(details=details), target)

    body = asyncio.run(passing())
    return Starlette(routes=[Route("/readyz", Constant(body))])


def routes(number: int, check: CheckFunc) -> ASGIApp:
    """Our routes, with the checks renewed in the background."""
    checker = checker_of(number, check)
    return Starlette(routes=checker.routes(), lifespan=checker.lifespan)


def short(number: int, check: CheckFunc) -> ASGIApp:
    """Our routes, with the verdict alone."""
    checker = checker_of(number, check)
    return Starlette(routes=checker.routes(details="status"), lifespan=checker.lifespan)


def asgi(number: int, check: CheckFunc) -> ASGIApp:
    """Our ASGI application, served by itself: it opens the Checker, too."""
    return checker_of(number, check).asgi()


def demand(number: int, check: CheckFunc) -> ASGIApp:
    """Our routes, with the checks renewed when a probe finds them older than the ttl."""
    return Starlette(routes=checker_of(number, check).routes())


def page(number: int, check: CheckFunc) -> ASGIApp:  # noqa: ARG001 - as all kinds are made.
    """An application with a page of its own, that knows nothing of health."""

    async def hello(_: Request) -> JSONResponse:
        return JSONResponse({"hello": "world"})

    return Starlette(routes=[Route("/", hello)])


def instrumented(number: int, check: CheckFunc) -> ASGIApp:
    """The same, in a process that is instrumented as `opentelemetry-instrument` does it."""
    HealthInstrumentor().instrument()
    return page(number, check)


def flask(number: int, check: CheckFunc) -> WSGIApp:  # noqa: ARG001 - as all kinds are made.
    """The same page of a WSGI application."""
    from flask import Flask

    app = Flask("page")
    app.get("/")(lambda: {"hello": "world"})
    return app


def flask_instrumented(number: int, check: CheckFunc) -> WSGIApp:
    """The same, in a process that is instrumented as `opentelemetry-instrument` does it."""
    HealthInstrumentor().instrument()
    return flask(number, check)


APPS: Final[dict[str, Callable[[int, CheckFunc], ASGIApp]]] = {
    "raw": raw,
    "asgi": asgi,
    "starlette": starlette,
    "constant": partial(constant, "/readyz", "names"),
    "routes": routes,
    "constant text": partial(constant, "/readyz?verbose", "names"),
    "constant short": partial(constant, "/readyz", "status"),
    "short": short,
    "demand": demand,
    "page": page,
    "page, instrumented": instrumented,
    "page, again": page,
    **peers.APPS,
}

WSGI_APPS: Final[dict[str, Callable[[int, CheckFunc], WSGIApp]]] = {
    "flask": flask,
    "flask, instrumented": flask_instrumented,
    "flask, again": flask,
}


class Gunicorn(BaseApplication):  # type: ignore[misc] # It is untyped.
    """One worker of gunicorn, with threads, so that connections are kept open."""

    def __init__(self, app: WSGIApp, port: str) -> None:
        self._app = app
        self._port = port
        super().__init__()

    def load_config(self) -> None:
        """Say how it is to serve."""
        said = {"bind": f"127.0.0.1:{self._port}", "worker_class": "gthread", "threads": 4, "loglevel": "warning"}
        for name, value in {**said, "keepalive": 30, "control_socket_disable": True}.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApp:
        """Return what it serves."""
        return self._app


def main(kind: str, number: str, port: str, check: str) -> None:
    """Serve until killed; every kind with the same settings."""
    if kind in WSGI_APPS:
        Gunicorn(WSGI_APPS[kind](int(number), CHECKS[check]), port).run()
        return
    uvicorn.run(
        APPS[kind](int(number), CHECKS[check]),
        host="127.0.0.1",
        port=int(port),
        http="httptools",
        loop="uvloop",
        workers=1,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
