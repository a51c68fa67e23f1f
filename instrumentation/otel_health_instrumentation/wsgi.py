"""Health in front of a WSGI application, answered by the event loop of the thread that runs the checks."""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Message, Scope

from otel_health_instrumentation.claims import claims
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import PROCESS, Health
from otel_health_instrumentation.pages import SEEN, Found

LED: Final = "_otel_health_leads_wsgi"
"""Marks the methods that lead the calls of a WSGI application through ours."""

METRICS_SECONDS: Final = 10.0
"""How long a scraper waits for the thread, at most."""

GRACE_SECONDS: Final = 0.1
"""How long a probe waits for the thread beyond the time in which it is to answer there."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

Call = Callable[[Any, Environ, StartResponse], Iterable[bytes]]
"""The method that servers call of a WSGI application."""


def lead(original: Call) -> Call:
    """Lead the calls of a WSGI application through ours; as in ASGI, most pass by no other function of ours."""

    @wraps(original)
    def called(self: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if SEEN in environ:
            return original(self, environ, start_response)
        environ[SEEN] = True
        length, beginnings = PROCESS.looked_at
        if environ.get("PATH_INFO", "")[:length] not in beginnings:
            return original(self, environ, start_response)
        return _serve(partial(original, self), self, environ, start_response)

    vars(called)[LED] = True
    return called


class HealthWSGIMiddleware:
    """Answers the probes and the metrics of this process in front of a WSGI application.

    What gunicorn serves, and every Flask and Django application, has it without being told. While nothing is
    instrumented it only passes on.

    Example:
        >>> application = HealthWSGIMiddleware(application)
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    @lead
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer what is ours; the rest is the application's."""
        return self.app(environ, start_response)


def _serve(call: Application, app: object, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer what is ours, and have the application called for everything else.

    Args:
        call: What to call.
        app: The application that is called, which may have routes of its own.
        environ: As in WSGI, as is `start_response`.
    """
    health = PROCESS.health
    answer = None
    if health is not None and SEEN not in environ.get("asgi.scope", ()) and health.start():
        with guarded("answer a probe"):
            answer = _answer(health, app, environ)
    if answer is None:
        return call(environ, start_response)
    start_response(answer.status, answer.headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]


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
            self.status = _line(HTTPStatus(message["status"]))
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            self.body += message.get("body", b"")


def _answer(health: Health, app: object, environ: Environ) -> _Answer | None:
    """What is to be answered; None where the application has to."""
    scope = _scope(environ)
    found = health.pages.find(scope)
    if found is None or claims(app, found.path, found.below):
        return None
    is_probe = health.pages.is_probe(found)
    answer = _Answer()
    told = health.background.call(_told(health, found, scope, answer))
    try:
        told.result(health.checker.answer_within + GRACE_SECONDS if is_probe else METRICS_SECONDS)
    except TimeoutError:
        # A check blocks the loop of our thread, which says nothing of the application: what is known is known here too.
        told.cancel()
        answer = _Answer()
        known = health.pages.standing(found, scope["query_string"]) if is_probe else HTTPStatus.SERVICE_UNAVAILABLE
        answer.status = _line(known)
        answer.headers = [("cache-control", "no-store")]
    return answer


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


async def _told(health: Health, found: Found, scope: Scope, answer: _Answer) -> None:
    await health.open()
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
