"""An event loop whose time jumps to the next timer instead of passing."""

import asyncio
import logging
import selectors
from collections.abc import Callable
from typing import Any

from otel_health import Checker


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waits for nothing but real input: an hour of sleep takes no time, and takes exactly an hour."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        select: Callable[..., list[Any]] = selector.select

        def jump(timeout: float | None = None) -> list[Any]:
            found = select(None if timeout is None else 0)
            if not found and timeout is not None and timeout > 0:
                self.now += timeout
            return found

        selector.select = jump  # type: ignore[method-assign]

    def time(self) -> float:
        """Virtual monotonic seconds."""
        return self.now


def now() -> float:
    """The time of the running loop: virtual monotonic seconds."""
    return asyncio.get_running_loop().time()


def virtual_checker(**options: Any) -> Checker:
    """Return a Checker whose clock is the running loop's, and that tells of nothing.

    Telling is done by a thread, which lives in real time: waiting for it would make virtual time jump.
    """
    silent = logging.Logger("silent", level=logging.CRITICAL)
    return Checker(clock=asyncio.get_running_loop().time, logger=silent, trace="never", **options)
