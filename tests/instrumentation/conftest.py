"""Fixtures of the instrumentation's tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_health import Checker
from otel_health_instrumentation import HealthInstrumentor

Instrument = Callable[..., Checker]


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """Instrument this process with some options until the test ends; the Checker is returned."""
    instrumentor = HealthInstrumentor()

    def instrumented(**options: Any) -> Checker:
        instrumentor.instrument(**options)
        checker = instrumentor.checker
        assert checker is not None
        return checker

    yield instrumented
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
