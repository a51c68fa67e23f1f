"""Zero-code health: an application that runs under `opentelemetry-instrument` gets probes, checks and metrics."""

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # It is untyped.

from otel_health import Checker
from otel_health_instrumentation.asgi import HealthMiddleware
from otel_health_instrumentation.configuration import Configuration, configured
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import PROCESS, Health
from otel_health_instrumentation.web import web_hooks
from otel_health_instrumentation.wsgi import HealthWSGIMiddleware

__all__ = ["HealthInstrumentor", "HealthMiddleware", "HealthWSGIMiddleware", "__version__"]
__version__ = "0.1.0"


class HealthInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Gives an application health without a changed line; see `Configuration` for what it may be told.

    Example:
        >>> HealthInstrumentor().instrument(timeout=1.0)
    """

    configuration = Configuration

    @property
    def checker(self) -> Checker | None:
        """The Checker, for checks of the application's own; None while nothing is instrumented."""
        health = PROCESS.health
        return None if health is None else health.checker

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing in particular: whatever is there is hooked, whatever is not is left alone."""
        return ()

    def _instrument(self, **options: Any) -> None:
        with guarded("instrument the application"):
            health = Health(configured(options))
            PROCESS.have(health)
            self._web = web_hooks()
            self._web.hook()
            if health.clients is not None:
                health.clients.instrument()

    def _uninstrument(self, **_: Any) -> None:
        with guarded("leave the application"):
            health = PROCESS.health
            PROCESS.have(None)
            if health is not None:
                self._web.unhook()
                if health.clients is not None:
                    health.clients.uninstrument()
                health.end()
