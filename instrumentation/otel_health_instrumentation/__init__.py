"""Zero-code health: an application that runs under `opentelemetry-instrument` gets probes, checks and metrics."""

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # It is untyped.

from otel_health import Checker
from otel_health_instrumentation.configuration import Configuration, configured
from otel_health_instrumentation.guard import guarded
from otel_health_instrumentation.health import Health

__all__ = ["HealthInstrumentor", "__version__"]
__version__ = "0.1.0"


class HealthInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Gives an application health without a changed line; see `Configuration` for what it may be told.

    Example:
        >>> HealthInstrumentor().instrument(timeout=1.0)
    """

    configuration = Configuration

    health: Health | None = None
    """The health of this process, while it is instrumented."""

    @property
    def checker(self) -> Checker | None:
        """The Checker, for checks of the application's own; None while nothing is instrumented."""
        return None if self.health is None else self.health.checker

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing in particular: whatever is there is hooked, whatever is not is left alone."""
        return ()

    def _instrument(self, **options: Any) -> None:
        with guarded("instrument the application"):
            self.health = Health(configured(options))

    def _uninstrument(self, **_: Any) -> None:
        health, self.health = self.health, None
        with guarded("leave the application"):
            if health is not None:
                health.forget()
