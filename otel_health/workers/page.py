"""What a worker tells its siblings: that its loop turns, how its livez is, and what its shared checks have brought."""

import marshal
from types import MappingProxyType
from typing import Final, NamedTuple

from otel_health.report import CheckResult, ErrorType, Status

_FORMAT: Final = 1
"""Siblings may be of another version while a service is being renewed; they do not understand each other."""


class Page(NamedTuple):
    """Times are seconds on the monotonic clock, which is the same for every process of a machine."""

    beat: float
    """When its loop last turned."""
    livez: bool
    believed_until: float
    """Until when its livez holds if it writes no more."""
    results: tuple[tuple[CheckResult, float], ...] = ()
    """Of its shared checks, with when they came."""


def encoded(page: Page) -> bytes:
    """Return the page as bytes."""
    results = [(*_plain(result), finished) for result, finished in page.results]
    return marshal.dumps((_FORMAT, page.beat, page.livez, page.believed_until, results))


def decoded(content: bytes) -> Page | None:
    """Return the page that these bytes are, if they are one."""
    try:
        version, beat, livez, believed_until, results = marshal.loads(content)
        if version != _FORMAT:
            return None
        return Page(beat, livez, believed_until, tuple((_result(*plain), finished) for *plain, finished in results))
    except (ValueError, TypeError, EOFError):
        return None


def _plain(result: CheckResult) -> tuple[object, ...]:
    return (
        result.component,
        result.status.value,
        result.duration,
        result.checked_at,
        None if result.error_type is None else result.error_type.value,
        result.message,
        dict(result.observations),
        result.exception_type,
    )


def _result(
    component: str,
    status: str,
    duration: float | None,
    checked_at: float,
    error_type: str | None,
    message: str | None,
    observations: dict[str, float],
    exception_type: str | None,
) -> CheckResult:
    return CheckResult(
        component,
        Status(status),
        duration,
        checked_at,
        None if error_type is None else ErrorType(error_type),
        message,
        MappingProxyType(observations),
        exception_type,
    )
