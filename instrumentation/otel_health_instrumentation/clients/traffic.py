"""What the application's own traffic proves: that a server answered it, a moment ago."""

import math
from collections.abc import Callable, Collection

from otel_health.compose import parent
from otel_health_instrumentation.clients.technology import Server


class Traffic:
    """Remembers when each component last answered the application.

    Args:
        seconds: For how long an answer proves that the component works.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._answered: dict[Server, float] = {}

    def follow(self, components: Collection[Server]) -> None:
        """Remember this of these components, and of no others."""
        self._answered = {each: self._answered.get(each, -math.inf) for each in components}

    def succeeded(self, server: Server) -> None:
        """A server answered; that it answered a check is nothing new."""
        if server in self._answered and not within_a_check():
            self._answered[server] = self._clock()

    def failed(self, server: Server) -> None:
        """A server did not answer, or not well: what it did before proves nothing any more."""
        if server in self._answered:
            self._answered[server] = -math.inf

    def proves(self, server: Server) -> bool:
        """Whether the component need not be asked: it answered, and nothing has failed since."""
        return self._clock() - self._answered.get(server, -math.inf) < self._seconds


def within_a_check() -> bool:
    """Whether it is a check that does what is done here, whose clients and traffic are not the application's."""
    return parent.get(None) is not None
