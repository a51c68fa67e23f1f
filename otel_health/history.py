"""The last runs of a component, a byte for each: enough to draw them, too little to weigh anything."""

from functools import cache
from typing import Final, NamedTuple

from otel_health.report import CheckResult, Status

KEPT: Final = 30
"""Runs that are remembered of each component."""

_STATUSES: Final = (Status.PASS, Status.WARN, Status.FAIL)
_NO_DURATION: Final = 63
_BYTES: Final = tuple(bytes((each,)) for each in range(256))


class PastRun(NamedTuple):
    """One run as it is remembered."""

    status: Status
    duration: float | None
    """Seconds, up to a third less than it was; None for an attempt that started nothing."""


class Particulars(NamedTuple):
    """What is known of a component beside its state."""

    critical: bool
    last_success: float | None
    """Seconds since the Unix epoch, for display only."""
    runs: bytes


def remembered(runs: bytes, result: CheckResult) -> bytes:
    """Return the last runs with one more, and without the oldest where there are too many.

    A byte is the status in its upper two bits, and the duration in half octaves of a microsecond below them: bytes
    that are never written to may be read in any thread.
    """
    duration = result.duration
    if duration is None:
        code = _NO_DURATION
    else:
        microseconds = int(duration * 1e6)
        code = (microseconds * microseconds).bit_length()
        if code >= _NO_DURATION:
            code = _NO_DURATION - 1
    status = result.status
    if status is not Status.PASS:
        code += 64 if status is Status.WARN else 128
    return runs[1 - KEPT :] + _BYTES[code]


def recalled(runs: bytes) -> list[PastRun]:
    """Return the last runs, the oldest first."""
    return [_recalled(code) for code in runs]


@cache
def _recalled(code: int) -> PastRun:
    level = code & _NO_DURATION
    # The lower end of the half octave; level 0 is less than a microsecond.
    duration = None if level == _NO_DURATION else 2 ** ((level - 1) / 2) / 1e6 if level else 0.0
    return PastRun(_STATUSES[code >> 6], duration)
