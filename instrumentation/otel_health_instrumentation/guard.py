"""What keeps our own faults from the application."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from otel_health.redaction import describe

LOGGER: Final = logging.getLogger("otel_health")

_told: Final[set[tuple[str, type[BaseException]]]] = set()


@contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Let no fault out of the block: one log line for each kind, and the application goes on.

    Args:
        doing: What is tried, as in "health: could not <doing>".
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the one place where a fault of ours ends.
        kind = doing, type(error)
        if kind not in _told:
            _told.add(kind)
            LOGGER.warning("health: could not %s: %s: %s", doing, type(error).__name__, describe(error))
