"""One server with so many components whose checks do nothing: `python -m tests.benchmarks.served KIND NUMBER PORT`."""

import asyncio
import sys
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_health import Checker
from otel_health.http.render import as_json
from tests.benchmarks import peers
from tests.benchmarks.peers import nothing


def checker_of(number: int) -> Checker:
    """A Checker of so many components, and no metrics."""
    checker = Checker()
    for each in range(number):
        checker.add(f"check-{each}", nothing)
    return checker


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


def starlette(_: int) -> ASGIApp:
    """Bare Starlette: what an application writes that checks nothing."""

    async def readyz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "pass"})

    return Starlette(routes=[Route("/readyz", readyz)])


def raw(_: int) -> ASGIApp:
    """The limit of the server."""
    return Constant(b'{"status":"pass"}')


def constant(number: int) -> ASGIApp:
    """The limit of a Starlette route that sends as many bytes as our JSON has for this number."""
    checker = checker_of(number)
    body = as_json(asyncio.run(checker.run()), "names", checker.service)
    return Starlette(routes=[Route("/readyz", Constant(body))])


def routes(number: int) -> ASGIApp:
    """Our routes, with the checks renewed in the background."""
    checker = checker_of(number)
    return Starlette(routes=checker.routes(), lifespan=checker.lifespan)


def asgi(number: int) -> ASGIApp:
    """Our ASGI application, served by itself."""
    return checker_of(number).asgi()


def demand(number: int) -> ASGIApp:
    """Our routes, with the checks renewed when a probe finds them older than the ttl."""
    return Starlette(routes=checker_of(number).routes())


def short(number: int) -> ASGIApp:
    """Our routes, with the verdict alone."""
    checker = checker_of(number)
    return Starlette(routes=checker.routes(details="status"), lifespan=checker.lifespan)


# What is compared stands side by side, as it is driven.
APPS: Final[dict[str, Callable[[int], ASGIApp]]] = {
    "asgi": asgi,
    "raw": raw,
    "starlette": starlette,
    "constant": constant,
    "routes": routes,
    "demand": demand,
    "text": routes,
    "short": short,
    **peers.APPS,
}
PATHS: Final = dict.fromkeys(APPS, "/readyz") | {"text": "/readyz?verbose"} | peers.PATHS


def main(kind: str, number: str, port: str) -> None:
    """Serve until terminated."""
    app = APPS[kind](int(number))
    uvicorn.run(
        app,
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
