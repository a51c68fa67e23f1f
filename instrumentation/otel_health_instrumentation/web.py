"""Where health comes between servers and applications, for those who were told nothing of it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from otel_health_instrumentation import asgi, wsgi
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import current
from otel_health_instrumentation.hooks import Hooks, Seam


def lead_asgi(original: Callable[..., Any]) -> Callable[..., Any]:
    """Lead the calls of an ASGI application through ours."""

    async def called(self: object, scope: Scope, receive: Receive, send: Send) -> None:
        if asgi.passes(scope):
            await original(self, scope, receive, send)
        else:
            await asgi.serve(partial(original, self), self, scope, receive, send)

    return called


def lead_wsgi(original: Callable[..., Any]) -> Callable[..., Any]:
    """Lead the calls of a WSGI application through ours."""

    def called(self: object, environ: wsgi.Environ, start_response: wsgi.StartResponse) -> Iterable[bytes]:
        return wsgi.serve(partial(original, self), self, environ, start_response)

    return called


def lead_uvicorn(original: Callable[..., Any]) -> Callable[..., Any]:
    """Put health in front of whatever uvicorn has loaded."""

    def load(config: Any) -> None:
        original(config)
        if current() is not None:
            with guarded("stand in front of what uvicorn serves"):
                config.loaded_app = asgi.HealthMiddleware(config.loaded_app)

    return load


def lead_gunicorn(original: Callable[..., Any]) -> Callable[..., Any]:
    """Put health in front of whatever a worker of gunicorn has loaded that speaks WSGI, after it was forked."""

    def load_wsgi(worker: Any) -> None:
        original(worker)
        health = current()
        if health is None or not _speaks_wsgi(type(worker)):
            return
        with guarded("stand in front of what gunicorn serves"):
            worker.wsgi = wsgi.HealthWSGIMiddleware(worker.wsgi)
            health.start()

    return load_wsgi


def _speaks_wsgi(worker: type) -> bool:
    """Whether this kind of worker calls what it has loaded as in WSGI.

    Those of aiohttp and tornado look at what they were given, and refuse to serve another; uvicorn's loads by `Config`.
    """
    return any(each.__module__ in SPEAK_WSGI for each in worker.__mro__)


SPEAK_WSGI: Final = {f"gunicorn.workers.{name}" for name in ("sync", "gthread", "base_async", "ggevent", "geventlet")}
"""Where gunicorn has its workers of WSGI."""

ASGI: Final = (
    ("starlette.applications", "Starlette"),
    ("fastapi.applications", "FastAPI"),
    ("django.core.handlers.asgi", "ASGIHandler"),
    ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware"),
)
WSGI: Final = (
    ("flask.app", "Flask"),
    ("django.core.handlers.wsgi", "WSGIHandler"),
    ("opentelemetry.instrumentation.wsgi", "OpenTelemetryMiddleware"),
)
"""What is called for each request. OpenTelemetry's own middlewares are there for who puts them outside everything."""


def web_hooks() -> Hooks:
    """Return the hooks of servers and frameworks, to be hooked."""
    return Hooks(
        Seam("uvicorn.config", "Config", "load", lead_uvicorn),
        Seam("gunicorn.workers.base", "Worker", "load_wsgi", lead_gunicorn),
        *(Seam(module, owner, "__call__", lead_asgi) for module, owner in ASGI),
        *(Seam(module, owner, "__call__", lead_wsgi) for module, owner in WSGI),
    )
