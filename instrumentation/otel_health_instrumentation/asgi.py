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
        if passes(scope):
            await self.app(scope, receive, send)
        else:
            await serve(self.app, self.app, scope, receive, send)


def passes(scope: Scope) -> bool:
    """Return whether this is none of our business, as nearly every request is: the application pays for the answer."""
    health = current()
    if health is None or SEEN in scope:
        return True
    if scope["type"] != "http" or not health.checker.is_open or health.pages.might_be(below_root(scope)):
        return False
    scope[SEEN] = True
    return True


async def serve(call: ASGIApp, app: object, scope: Scope, receive: Receive, send: Send) -> None:
    """Do what is to be done, and have the application called unless that was an answer.

    Args:
        call: What to call.
        app: The application behind it, which may have routes of its own.
        scope: As in ASGI, as are `receive` and `send`; it does not pass.
    """
    health = current()
    scope[SEEN] = True
    answer = None
    if health is not None and scope["type"] == "lifespan":
        life = _Lifespan(health, receive, send)
        receive, send = life.receive, life.send
    elif health is not None and scope["type"] == "http":
        await health.open()
        with guarded("answer a probe"):
            answer = _answer(health, app, scope)
    await (answer or call)(scope, receive, send)


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
