"""How many tasks the event loop carries."""

import asyncio

import pytest

from otel_health import Status
from otel_health.checks.loop import tasks
from tests.checks.doors import result


async def test_tasks_that_pile_up() -> None:
    """Each counts until it ends."""
    before = (await result(tasks(warn=1000))).observations["tasks"]
    piled = [asyncio.create_task(asyncio.sleep(60)) for _ in range(50)]
    many = await result(tasks(warn=before + 40, fail=1000))
    for task in piled:
        task.cancel()
    await asyncio.wait(piled)
    few = await result(tasks(warn=before + 40, fail=1000))

    assert (many.status, few.status) == (Status.WARN, Status.PASS)
    assert many.observations["tasks"] == before + 50


def test_what_is_refused() -> None:
    """At registration."""
    with pytest.raises(ValueError, match="without a limit"):
        tasks()
