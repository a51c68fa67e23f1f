"""Check functions that pass, fail, hang and misbehave, as the tests need them."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

AsyncCheck = Callable[[], Awaitable[None]]


def passing() -> AsyncCheck:
    """Return a check that passes at once."""

    async def check() -> None:
        return None

    return check


def failing(error: BaseException | None = None) -> AsyncCheck:
    """Return a check that raises."""

    async def check() -> None:
        raise error or ConnectionError("refused")

    return check


def hanging() -> AsyncCheck:
    """Return a check that never ends, but may be cancelled."""

    async def check() -> None:
        await asyncio.Event().wait()

    return check


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


class Blocking:
    """A sync check that holds its thread until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.let_go = threading.Event()
        self.entered = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.entered.set()
        self.let_go.wait()


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
