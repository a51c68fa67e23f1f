"""When a started Checker renews what: one timer over a heap of due times."""

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from typing import Final, Generic, TypeVar

BACKOFF_JITTER: Final = 0.2
"""Part of a wait after a failure by which it is spread."""

JITTER: Final = 0.1
"""Part of an interval by which renewals are spread, so that a fleet does not fall into step."""

SPARE_ENTRIES: Final = 128
"""Entries that were overtaken by later ones, and may stand in the heap beside as many as are planned."""

SECOND_LOOK: Final = 1.0
"""Seconds within which an outcome that differs from the state is followed by another run."""

SLACK: Final = 0.01
"""Seconds by which an item that is due in a second or later may be put off, so that one waking serves many."""

BATCH_ITEMS: Final = 128
"""At most so many items are renewed before the loop gets its turn."""

Item = TypeVar("Item")


class Schedule(Generic[Item]):
    """Calls `renew(item)` on the loop when the item is due, as its last `put` says.

    Args:
        clock: Monotonic seconds.
        renew: Must not raise for an item's own fault.
    """

    def __init__(self, clock: Callable[[], float], renew: Callable[[Item], object]) -> None:
        self._clock = clock
        self._renew = renew
        self._heap: list[tuple[float, int, Item]] = []
        self._last: dict[Item, int] = {}
        """The `put` that counts for each item; what earlier ones left in the heap is passed over."""
        self._sequence = 0
        self._phase = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether it is started."""
        return self._loop is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to call on this loop."""
        self._loop = loop
        self._phase = random.uniform(0.0, SLACK)  # The processes of a host are not to wake at the same moments.

    def stop(self) -> None:
        """Forget everything and call no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None
        self._heap.clear()
        self._last.clear()

    def forked(self) -> None:
        """Be stopped, in a forked child: the timer is on the parent's loop, and is left alone."""
        self._timer = None
        self.stop()

    def put(self, item: Item, delay: float) -> None:
        """Have the item renewed in `delay` seconds; without effect when not started."""
        if self._loop is None:
            return
        due = self._clock() + max(delay, 0.0)
        if delay >= 1.0:
            due = self._phase + math.ceil((due - self._phase) / SLACK) * SLACK
        self._sequence += 1
        self._last[item] = self._sequence
        if len(self._heap) > 2 * len(self._last) + SPARE_ENTRIES:
            # Those that were put off: each is forgotten when it is due, which may be far away.
            self._heap = [entry for entry in self._heap if self._last.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due, self._sequence, item))
        if self._heap[0][1] == self._sequence:
            self._arm()

    def _wake(self) -> None:
        try:
            now = self._clock()
            for _ in range(BATCH_ITEMS):
                if not self._heap or self._heap[0][0] > now:
                    break
                _, sequence, item = heapq.heappop(self._heap)
                if self._last.get(item) == sequence:
                    del self._last[item]
                    self._renew(item)
        finally:
            # Whatever was put meanwhile armed the timer for itself alone; and more may be due.
            self._arm()

    def _arm(self) -> None:
        """Have the timer wake us when the first item is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None and self._heap:
            self._timer = self._loop.call_later(max(self._heap[0][0] - self._clock(), 0.0), self._wake)


def next_delay(interval: float, elapsed: float, *, differs: bool) -> float:
    """Return the seconds until the next run of a check whose last one began `elapsed` seconds ago.

    Args:
        interval: Seconds between two runs.
        elapsed: Seconds since the last run began.
        differs: Whether its outcome differs from what is held to be true.
    """
    if differs:
        return min(interval, SECOND_LOOK * random.uniform(0.5, 0.95))
    return max(interval * random.uniform(1 - JITTER, 1 + JITTER) - elapsed, 0.0)


def backoff(failures: int, *, first: float, most: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, plus or minus 20 %.

    Args:
        failures: How many, from 1.
        first: Seconds after the first.
        most: Seconds that this grows to.
    """
    return spread(min(first * 2.0 ** min(failures - 1, 1000), most))


def spread(seconds: float) -> float:
    """Return the seconds, plus or minus 20 %, so that a fleet does not fall into step."""
    return seconds * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
