"""Where health comes between servers and applications, for those who were told nothing of it."""

from collections.abc import Callable
from typing import Any, Final

from otel_health_instrumentation import asgi, wsgi
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import PROCESS
from otel_health_instrumentation.hooks import Hooks, Seam


def lead_uvicorn(original: Callable[..., Any]) -> Callable[..., Any]:
    """Put health in front of whatever uvicorn has loaded whose calls are not led through it anyway."""

    def load(config: Any) -> None:
        original(config)
        if PROCESS.health is None:
            return
        with guarded("stand in front of what uvicorn serves"):
            if not _is_led(config.loaded_app, asgi.LED):
                config.loaded_app = asgi.HealthMiddleware(config.loaded_app)

    return load


def _is_led(app: Any, mark: str) -> bool:
    """Whether the calls of this application are led through ours already, within what uvicorn has put around it."""
    while type(app).__module__.startswith("uvicorn."):
        app = app.app
    return hasattr(type(app).__call__, mark)


def lead_gunicorn(original: Callable[..., Any]) -> Callable[..., Any]:
    """Put health in front of whatever a worker of gunicorn has loaded that speaks WSGI, after it was forked."""

    def load_wsgi(worker: Any) -> None:
        original(worker)
        health = PROCESS.health
        if health is None or not _speaks_wsgi(type(worker)):
            return
        with guarded("stand in front of what gunicorn serves"):
            if not _is_led(worker.wsgi, wsgi.LED):
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
        *(Seam(module, owner, "__call__", asgi.lead) for module, owner in ASGI),
        *(Seam(module, owner, "__call__", wsgi.lead) for module, owner in WSGI),
    )
