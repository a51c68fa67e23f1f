"""Check functions that misbehave, as our own tests need them, beside those that everybody's tests need."""

import asyncio
from collections.abc import Callable

from otel_health.testing import AsyncCheck, Blocking, failing, hanging, passing

__all__ = ["AsyncCheck", "Blocking", "Switch", "eventually", "failing", "hanging", "passing", "swallowing"]


def swallowing(calls: list[object] | None = None) -> AsyncCheck:
    """Return a check that never ends and takes no cancellation."""

    async def check() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError as cancelled:
                if calls is not None:
                    calls.append(cancelled)

    return check


class Switch:
    """A check that passes or fails as it is told, and counts its runs."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    async def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


async def eventually(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until `true()`; fail if that takes longer than `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)
