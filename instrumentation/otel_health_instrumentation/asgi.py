"""Health in front of an ASGI application."""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_health_instrumentation.claims import claims
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import PROCESS, Health
from otel_health_instrumentation.pages import SEEN, Found, below_root

LED: Final = "_otel_health_leads_asgi"
"""Marks the methods that lead the calls of an ASGI application through ours."""

Call = Callable[[Any, Scope, Receive, Send], Awaitable[None]]
"""The method that servers call of an ASGI application."""


def lead(original: Call) -> Call:
    """Lead the calls of an ASGI application through ours.

    Nearly every request is none of our business, and the application pays for each that is looked at: one that passes
    meets no coroutine and no other function of ours, and touches little memory that is not at hand anyway.
    """

    @_coroutine_function
    @wraps(original)
    def called(self: Any, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if SEEN in scope:
            return original(self, scope, receive, send)
        scope[SEEN] = True
        path = scope.get("path")
        if path is not None:
            length, beginnings = PROCESS.looked_at
            if (below_root(scope) if scope.get("root_path") else path)[:length] not in beginnings:
                return original(self, scope, receive, send)
        return _serve(partial(original, self), self, scope, receive, send)

    vars(called)[LED] = True
    return called


def _coroutine_function(call: Call) -> Call:
    """Have a method that returns an awaitable pass for a coroutine function: so servers know ASGI applications."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(call)

    # With the same parameters: uvicorn takes for a factory of applications what it can call without any.
    @wraps(call)
    async def awaiting(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        await call(self, scope, receive, send)

    return awaiting


class HealthMiddleware:
    """Answers the probes and the metrics of this process in front of an ASGI application.

    What uvicorn and gunicorn serve, and every Starlette, FastAPI and Django application, has it without being told.
    While nothing is instrumented it only passes on.

    Example:
        >>> app = HealthMiddleware(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    @lead
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer what is ours; the rest is the application's."""
        return self.app(scope, receive, send)


async def _serve(call: ASGIApp, app: object, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what is to be done, and have the application called unless that was an answer.

    Args:
        call: What to call.
        app: The application that is called, which may have routes of its own.
        scope: As in ASGI, as are `receive` and `send`.
    """
    health = PROCESS.health if _runs_asyncio() else None
    answer = None
    if health is not None and scope["type"] == "lifespan":
        life = _Lifespan(health, receive, send)
        receive, send = life.receive, life.send
    elif health is not None and scope["type"] == "http" and SEEN not in scope.get("wsgi_environ", ()):
        await health.open()
        with guarded("answer a probe"):
            answer = _answer(health, app, scope)
    await (answer or call)(scope, receive, send)


def _runs_asyncio() -> bool:
    """Whether the server has an event loop of asyncio's, and not trio's: on no other can checks run."""
    with guarded("run on this server's event loop, which is not asyncio's"):
        asyncio.get_running_loop()
        return True
    return False


def _answer(health: Health, app: object, scope: Scope) -> Found | None:
    found = health.pages.find(scope)
    return None if found is None or claims(app, found.path, found.below) else found


class _Lifespan:
    """The life of an application: its checks run once it has started, and end before it does."""

    def __init__(self, health: Health, receive: Receive, send: Send) -> None:
        self._health = health
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """Hear what the server says, before the application does."""
        message = await self._receive()
        if message["type"] == "lifespan.shutdown":
            await self._health.close()
        return message

    async def send(self, message: Message) -> None:
        """Hear what the application says, before the server does."""
        if message["type"] == "lifespan.startup.complete":
            await self._health.open()
        await self._send(message)
