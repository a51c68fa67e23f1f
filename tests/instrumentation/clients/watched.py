"""What the tests of clients hold: a Checker, the clients that it is told of, and their time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otel_health import Checker
from otel_health_instrumentation.clients import Clients
from otel_health_instrumentation.clients.living import LIVES


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """An application whose clients are watched."""

    def __init__(self, checker: Checker, **options: Any) -> None:
        self.checker = checker
        self.clock = Clock()
        self.clients = Clients(checker, clock=self.clock, **options)

    def names(self, after: float = LIVES) -> set[str]:
        """The components, once so many seconds have passed."""
        self.clock.now += after
        self.clients.look()
        return set(self.checker.names)

    async def status(self, name: str) -> str:
        """What comes of asking a component now."""
        self.checker.renew(name)
        report = await self.checker.run("healthz")
        return str(report.statuses[name])


@contextmanager
def watching(*technologies: str, checker: Checker | None = None, **options: Any) -> Iterator[Watched]:
    """Watch the clients that are made within the block, of these technologies or of all.

    What other tests have left to the garbage collector is found as well.
    """
    watched = Watched(checker or Checker(timeout=5.0, ttl=1e-9), technologies=technologies or None, **options)
    watched.clients.instrument()
    try:
        yield watched
    finally:
        watched.clients.uninstrument()
