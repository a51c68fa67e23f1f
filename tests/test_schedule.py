"""When a started Checker renews what."""

import asyncio
import itertools

import pytest

from otel_health.schedule import BATCH_ITEMS, SLACK, Schedule, next_delay
from tests.virtual import now


def test_the_next_run_is_an_interval_after_the_last_began() -> None:
    """Plus or minus 10 %, less what has passed since; at once where that is more."""
    delays = [next_delay(10.0, 2.0, differs=False) for _ in range(1000)]

    assert min(delays) >= 7.0
    assert max(delays) <= 9.0
    assert max(delays) - min(delays) > 1.0
    assert next_delay(1.0, 5.0, differs=False) == 0.0


def test_an_outcome_that_differs_is_looked_at_again_within_a_second() -> None:
    """Or within the interval, where that is shorter; never at once."""
    delays = [next_delay(10.0, 9.9, differs=True) for _ in range(1000)]

    assert min(delays) >= 0.5
    assert max(delays) <= 0.95
    assert next_delay(0.1, 0.0, differs=True) == 0.1


@pytest.mark.virtual_time
async def test_items_are_renewed_when_they_are_due() -> None:
    """In the order of their due times, whatever the order in which they were put."""
    renewed: list[tuple[str, float]] = []
    schedule: Schedule[str] = Schedule(now, lambda item: renewed.append((item, now())))
    schedule.put("before the start", 1.0)
    schedule.start(asyncio.get_running_loop())
    begun = now()
    for item, delay in (("c", 0.3), ("a", 0.1), ("b", 0.2), ("at once", -5.0)):
        schedule.put(item, delay)

    await asyncio.sleep(10)

    came = [(item, round(at - begun, 3)) for item, at in renewed]
    assert came == [("at once", 0), ("a", 0.1), ("b", 0.2), ("c", 0.3)]


@pytest.mark.virtual_time
async def test_those_that_are_due_within_the_slack_share_a_waking() -> None:
    """A thousand that are due within a tenth of a second wake the loop eleven times at most, and none is early."""
    renewed: dict[float, float] = {}
    begun = now()
    schedule: Schedule[float] = Schedule(now, lambda delay: renewed.update({delay: now() - begun}))
    schedule.start(asyncio.get_running_loop())
    for number in range(1000):
        schedule.put(10.0 + number / 10_000, 10.0 + number / 10_000)

    await asyncio.sleep(20)

    assert len(renewed) == 1000
    assert all(-1e-9 <= at - delay <= SLACK + 1e-9 for delay, at in renewed.items())
    assert len(set(renewed.values())) <= 11


async def test_thousands_that_are_due_at_once_leave_the_loop_its_turn() -> None:
    """They are renewed a batch at a time, in their order, and all of them."""
    loop, renewed = asyncio.get_running_loop(), list[int]()
    seen: list[int] = []
    schedule: Schedule[int] = Schedule(loop.time, renewed.append)
    schedule.start(loop)
    for number in range(1000):
        schedule.put(number, 0.0)

    while len(renewed) < 1000:
        await asyncio.sleep(0)
        seen.append(len(renewed))

    assert renewed == list(range(1000))
    assert max(after - before for before, after in itertools.pairwise([0, *seen])) <= BATCH_ITEMS


@pytest.mark.virtual_time
async def test_a_renewal_that_raises_ends_nothing_but_itself() -> None:
    """The others are renewed all the same."""
    renewed: list[str] = []
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def renew(item: str) -> None:
        if item.startswith("broken"):
            raise RuntimeError(item)
        renewed.append(item)

    schedule: Schedule[str] = Schedule(now, renew)
    schedule.start(asyncio.get_running_loop())
    for item in ("broken", "first", "broken too", "second"):
        schedule.put(item, 1.0)
    schedule.put("later", 2.0)

    await asyncio.sleep(3)

    assert renewed == ["first", "second", "later"]
    assert len(told) == 2


@pytest.mark.virtual_time
async def test_an_item_is_due_once_as_it_was_last_put() -> None:
    """Whoever puts it again moves it."""
    renewed: list[float] = []
    schedule: Schedule[str] = Schedule(now, lambda _: renewed.append(now()))
    begun = now()
    schedule.start(asyncio.get_running_loop())
    schedule.put("a", 0.1)
    schedule.put("a", 0.3)
    schedule.put("a", 0.2)

    await asyncio.sleep(5)

    assert renewed == [begun + 0.2]


@pytest.mark.virtual_time
async def test_a_stopped_schedule_calls_nobody() -> None:
    """And forgets what it had to do, even when it is started again."""
    renewed: list[str] = []
    schedule: Schedule[str] = Schedule(now, renewed.append)
    schedule.start(asyncio.get_running_loop())
    schedule.put("a", 1.0)
    schedule.stop()
    assert not schedule.running
    schedule.start(asyncio.get_running_loop())

    await asyncio.sleep(5)

    assert renewed == []


@pytest.mark.virtual_time
async def test_an_item_that_is_put_while_another_is_renewed_holds_up_nobody() -> None:
    """A renewal that ends at once puts itself again; what was due before that is still due before that."""
    renewed: list[tuple[str, float]] = []

    def renew(item: str) -> None:
        renewed.append((item, now()))
        schedule.put(item, {"rare": 300.0, "often": 1.0}[item])

    schedule: Schedule[str] = Schedule(now, renew)
    schedule.start(asyncio.get_running_loop())
    schedule.put("rare", 1.0)
    schedule.put("often", 1.2)

    await asyncio.sleep(100)

    assert len([item for item, _ in renewed if item == "often"]) == 99


@pytest.mark.virtual_time
async def test_what_is_put_off_again_and_again_takes_no_memory() -> None:
    """The last word counts, and the ones before it are forgotten long before they would have been due."""
    renewed: list[str] = []
    schedule: Schedule[str] = Schedule(now, renewed.append)
    schedule.start(asyncio.get_running_loop())
    for turn in range(10_000):
        schedule.put(("a", "b", "c")[turn % 3], 3600.0)

    assert len(schedule._heap) < 200  # noqa: SLF001 - memory is what this is about.
    await asyncio.sleep(3601)
    assert sorted(renewed) == ["a", "b", "c"]
