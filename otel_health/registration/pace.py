"""When a registry is called, and for how long: heartbeats, retries, and what is left of a registration."""

import random
from collections.abc import Callable
from typing import Final

HEARTBEATS: Final = 3
"""Heartbeats in the time after which the registry takes silence for death."""

RETRY_FIRST: Final = 0.25
RETRY_MOST: Final = 7.5
"""Seconds. The retries' ceilings double from the first to the last, or to half of the TTL where that is less; each
waits a random part of its own."""

HASTE: Final = 20
RETRY_LEAST: Final = 0.2
"""Into how many parts what is left of a registration is divided, each of them the ceiling of the next retry, and
seconds that such a ceiling has at least."""

PATIENCE: Final = 0.5
"""Seconds that a call is given at least. A connection's first packet that is lost is sent again after a second, so
that it is quicker to call again."""

SHORT_CALLS: Final = 8
"""Calls that fail in a row before one is given the whole timeout, in case the registry is slow."""


class Pace:
    """The pace of one registration.

    Args:
        ttl: Seconds after which the registry takes silence for death.
        timeout: Seconds that one call may take.
        clock: Monotonic seconds.
    """

    def __init__(self, ttl: float, timeout: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._timeout = timeout
        self._clock = clock
        self._took = 0.0
        self.due = float("-inf")
        """When the next heartbeat is due."""
        self.believed_until = float("-inf")
        """Until when the registry holds what it was told, if it hears nothing more."""
        self.failures = 0
        """Calls that failed in a row."""
        self.failing_since: float | None = None
        """When the first of them was made."""

    @property
    def patience(self) -> float:
        """Seconds that the next call is given."""
        if self.failures >= SHORT_CALLS:
            return self._timeout
        return min(max(PATIENCE, 4 * self._took), self._timeout)

    @property
    def failing_for(self) -> float:
        """Seconds since when no call has succeeded."""
        return 0.0 if self.failing_since is None else self._clock() - self.failing_since

    def succeeded(self, begun: float) -> None:
        """Go on after a call that was begun then: what it brought counts from when the registry may have heard it."""
        self._took = self._clock() - begun
        self.believed_until = begun + self._ttl
        self.due = begun + self._ttl / HEARTBEATS * random.uniform(0.9, 1.0)
        self.failures = 0
        self.failing_since = None

    def failed(self, begun: float) -> float:
        """Go on after a call that failed; for how many seconds to leave the registry alone."""
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = begun
        ceiling = min(RETRY_FIRST * 2.0 ** min(self.failures - 1, 10), RETRY_MOST, self._ttl / 2)
        left = self.believed_until - self._clock()
        if left > 0:
            ceiling = min(ceiling, max(left / HASTE, RETRY_LEAST))
        # Full jitter: however many instances lose the registry at once, they do not come back at once.
        return random.uniform(0.0, ceiling)
