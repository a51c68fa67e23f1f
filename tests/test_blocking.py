"""Calls that block, from checks on the loop."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from otel_health import Checker
from otel_health.compose import blocking
from tests.doubles import Blocking


async def test_a_call_that_blocks_brings_its_value_or_its_error() -> None:
    """It is made in a thread, and what comes of it is the check's to use."""

    async def check() -> dict[str, float]:
        thread = await blocking("look", threading.current_thread)
        with pytest.raises(ZeroDivisionError):
            await blocking("divide", lambda: 1 / 0)
        return {"own": float(thread is not threading.main_thread())}

    checker = Checker()
    checker.add("it", check)
    state = (await checker.run()).components["it"]

    assert state.result is not None
    assert state.result.observations == {"own": 1.0}


async def test_a_call_that_hangs_is_counted_and_not_made_again(threads: Callable[[], int]) -> None:
    """The check says what hangs, whenever it is asked, and holds one thread."""
    stuck = Blocking()
    said = []

    async def check() -> None:
        await blocking("look", stuck)

    checker = Checker(timeout=0.3, ttl=0.01)
    checker.add("it", check)
    for _ in range(3):
        result = (await checker.run()).components["it"].result
        assert result is not None
        said.append(result.message)
        await asyncio.sleep(0.02)
    assert threads() <= 2  # The one that is stuck, and the one that tells of it.
    stuck.let_go.set()
    await checker.__aexit__(None, None, None)

    assert said[0] in ("look: did not end in time", "did not end within 0.3 s")
    assert said[1:] == ["look: an earlier call has not ended; nothing was started"] * 2
    assert stuck.calls == 1
