"""The workers of a group, as one of them sees the others."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_health.lifecycle.serving.slate import Slate
from otel_health.workers.meeting import SLATE, enter, file_of, leave, present
from otel_health.workers.page import Page, decoded, encoded
from otel_health.workers.processes import Process, process

SIDE_BYTES: Final = 2**18
"""What a worker can tell, at most: some hundred results with messages."""


class Siblings:
    """Tells the others how this worker is, and reads what they tell. Reading is safe from any thread.

    Args:
        place: Where they meet.

    Raises:
        OSError: This worker cannot enter there.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.own = process(os.getpid())
        self._slate = Slate(enter(place, self.own, 2 * SIDE_BYTES), SIDE_BYTES)
        self._others: dict[Process, Slate] = {}
        self._lock = threading.Lock()

    def tell(self, page: Page) -> bool:
        """Write a page; without its results, and False, where those are too many."""
        if self._slate.put(encoded(page)):
            return True
        self._slate.put(encoded(page._replace(results=())))
        return False

    def look(self) -> dict[Process, Page]:
        """Return what each of the others has last told; one that has not begun to is left out."""
        with self._lock:
            here = [each for each in present(self.place) if each != self.own]
            for gone in [each for each in self._others if each not in here or not self._is_current(each)]:
                self._others.pop(gone).close()
            for each in here:
                if each not in self._others:
                    self._open(each)
            found = {each: slate.latest() for each, slate in self._others.items()}
        pages = {each: decoded(latest[1]) for each, latest in found.items() if latest is not None}
        return {each: page for each, page in pages.items() if page is not None}

    def stay(self) -> None:
        """Show whoever removes old files that this one is in use."""
        with suppress(OSError):
            os.utime(file_of(self.place, self.own, SLATE))

    def close(self) -> None:
        """Leave."""
        with self._lock:
            for slate in (self._slate, *self._others.values()):
                slate.close()
            self._others.clear()
        leave(self.place, self.own)

    def forked(self) -> None:
        """Close what a forked child has of it."""
        self._lock = threading.Lock()
        for slate in (self._slate, *self._others.values()):
            slate.close()

    def _is_current(self, other: Process) -> bool:
        """Whether what is open of another is the file that it writes: it may have left and come back."""
        try:
            return os.path.samestat(os.fstat(self._others[other].fd), os.stat(file_of(self.place, other, SLATE)))
        except OSError:
            return False

    def _open(self, other: Process) -> None:
        with suppress(OSError):
            opened = os.open(file_of(self.place, other, SLATE), os.O_RDWR | os.O_CLOEXEC)
            # One that is being made has not its size yet.
            if os.fstat(opened).st_size == 2 * SIDE_BYTES:
                self._others[other] = Slate(opened, SIDE_BYTES)
            else:
                os.close(opened)
