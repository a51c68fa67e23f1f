"""A switch that the application turns: one component among the others, and its change is seen at once."""

from otel_health.check import Failed
from otel_health.instant import Instant
from otel_health.redaction import redact


class Closed(Failed):
    """Raised by a gate that the application keeps closed."""

    planned = True


class Gate(Instant):
    """Passes while it is open, fails while it is closed; may be turned from any thread.

    Turning it takes a lock for a moment, so a signal handler should leave it to the loop
    (`loop.call_soon_threadsafe(gate.close)`).

    Args:
        ready: Whether it is open from the start.
        reason: Why it is closed: one sentence for the operator.

    Example:
        >>> gate = checker.gate("config", reason="loading")
        >>> gate.open()
        >>> gate.close("the configuration is being read again")
    """

    def __init__(self, *, ready: bool = False, reason: str = "closed") -> None:
        super().__init__()
        # One value, so that no thread ever sees half a turn: why it is closed, or None while it is open.
        self._closed_for: str | None = None if ready else _sentence(reason)

    def __call__(self) -> None:
        """Pass while open.

        Raises:
            Closed: It is closed, with the reason.
        """
        reason = self._closed_for
        if reason is not None:
            raise Closed(reason)

    @property
    def is_open(self) -> bool:
        """Whether it lets its probes pass."""
        return self._closed_for is None

    @property
    def reason(self) -> str | None:
        """Why it is closed, redacted as all messages are; None while it is open."""
        return self._closed_for

    def open(self) -> None:
        """Let its probes pass from now on."""
        self._turn(None)

    def close(self, reason: str = "closed") -> None:
        """Fail its probes from now on.

        Raises:
            TypeError: The reason is no string.
        """
        self._turn(_sentence(reason))

    def _turn(self, reason: str | None) -> None:
        if reason != self._closed_for:
            self._closed_for = reason
            self.changed()


def _sentence(reason: object) -> str:
    if not isinstance(reason, str):
        raise TypeError(f"a gate's reason is one sentence for the operator, not {type(reason).__name__}")
    return redact(reason)
