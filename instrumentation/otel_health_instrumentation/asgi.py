"""Health in front of an ASGI application."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_health_instrumentation.claims import claims
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import Health, current
from otel_health_instrumentation.pages import Found, below_root

SEEN: Final = "otel_health_instrumentation"
"""Marks what has been here: of several applications inside each other only the outermost answers."""


class HealthMiddleware:
    """Answers the probes and the metrics of this process in front of an ASGI application.

    What uvicorn and gunicorn serve, and every Starlette, FastAPI and Django application, has it without being told.
    While nothing is instrumented it only passes on.

    Example:
        >>> app = HealthMiddleware(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is ours; the rest is the application's."""
        await serve(self.app, self.app, scope, receive, send)


async def serve(call: ASGIApp, app: object, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what is ours, and have the application called for everything else.

    Args:
        call: What to call.
        app: The application behind it, which may have routes of its own.
        scope: As in ASGI, as are `receive` and `send`.
    """
    health = current()
    if health is None or SEEN in scope:
        await call(scope, receive, send)
        return
    scope[SEEN] = True
    if scope["type"] == "lifespan":
        life = _Lifespan(health, receive, send)
        await call(scope, life.receive, life.send)
        return
    answer = None
    if scope["type"] == "http":
        if not health.checker.is_open:
            await health.open()
        if health.pages.might_be(below_root(scope)):
            with guarded("answer a probe"):
                answer = _answer(health, app, scope)
    if answer is None:
        await call(scope, receive, send)
    else:
        await answer(scope, receive, send)


def _answer(health: Health, app: object, scope: Scope) -> Found | None:
    found = health.pages.find(scope)
    return None if found is None or claims(app, found.path) else found


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
