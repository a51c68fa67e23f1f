"""Health in front of a WSGI application, answered by the event loop of the thread that runs the checks."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Message, Scope

from otel_health_instrumentation.claims import claims
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import Health, current
from otel_health_instrumentation.pages import Found

SEEN: Final = "otel_health_instrumentation"
"""Marks what has been here: of several applications inside each other only the outermost answers."""

ANSWER_SECONDS: Final = 10.0
"""How long a request waits for the thread, at most; a probe has its own, shorter, budget there."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class HealthWSGIMiddleware:
    """Answers the probes and the metrics of this process in front of a WSGI application.

    What gunicorn serves, and every Flask and Django application, has it without being told. While nothing is
    instrumented it only passes on.

    Example:
        >>> application = HealthWSGIMiddleware(application)
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer what is ours; the rest is the application's."""
        return serve(self.app, self.app, environ, start_response)


def serve(call: Application, app: object, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer what is ours, and have the application called for everything else.

    Args:
        call: What to call.
        app: The application behind it, which may have routes of its own.
        environ: As in WSGI, as is `start_response`.
    """
    health = current()
    if health is None or SEEN in environ:
        return call(environ, start_response)
    environ[SEEN] = True
    answer = None
    if health.start() and health.pages.might_be(environ.get("PATH_INFO", "")):
        with guarded("answer a probe"):
            answer = _answer(health, app, environ)
    if answer is None:
        return call(environ, start_response)
    start_response(answer.status, answer.headers)
    return [answer.body]


class _Answer:
    """What an ASGI endpoint sends, as WSGI wants it."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    async def receive(self) -> Message:
        """Say that there is no body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Take in what is sent."""
        if message["type"] == "http.response.start":
            status = HTTPStatus(message["status"])
            self.status = f"{status.value} {status.phrase}"
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            self.body += message.get("body", b"")


def _answer(health: Health, app: object, environ: Environ) -> _Answer | None:
    """What is to be answered; None where the application has to."""
    scope = _scope(environ)
    found = health.pages.find(scope)
    if found is None or claims(app, found.path):
        return None
    answer = _Answer()
    try:
        health.background.call(_told(found, scope, answer)).result(ANSWER_SECONDS)
    except TimeoutError:
        answer.status, answer.headers, answer.body = "503 Service Unavailable", [], b""
    return answer


async def _told(found: Found, scope: Scope, answer: _Answer) -> None:
    await found(scope, answer.receive, answer.send)


def _scope(environ: Environ) -> Scope:
    """The request as ASGI has it; WSGI's texts are bytes in disguise (PEP 3333)."""
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    return {
        "type": "http",
        "method": environ["REQUEST_METHOD"],
        "path": str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace"),
        "query_string": str(environ.get("QUERY_STRING", "")).encode("latin-1"),
        "headers": headers,
        "client": (environ.get("REMOTE_ADDR", ""), 0),
    }
