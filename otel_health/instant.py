"""Check functions that only read memory: they need no run, and what they say is seen the moment it changes."""

import threading
from collections.abc import Callable
from typing import ClassVar

from otel_health.check import CheckReturn
from otel_health.report import TaskState

Watcher = Callable[[], None]


class Instant:
    """A check function that neither waits nor blocks, so that anybody may call it at once, in whatever thread.

    What it says holds until `expires_at`, or until it calls `changed`: its component is then judged again in the
    thread that called, or by whoever reads it first.
    """

    expires_at: float = float("inf")
    """Until when what it says holds by itself: seconds on the Checker's clock."""
    pending: bool = False
    """Whether it has nothing to say yet."""
    mendable: bool = True
    """Whether a recovery action may be taken for what it says, once that is a failure."""
    task_state: TaskState | None = None
    """What the task is doing that it speaks for, where it is one."""

    # One that may be taken again: a finaliser may turn a gate at any allocation, in the thread that holds it.
    _guard: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self) -> None:
        self._watchers: tuple[Watcher, ...] = ()
        self.down: frozenset[object] = frozenset()
        """The components that are not held to be up by what this said last."""

    def __call__(self) -> CheckReturn:
        """Say how the component is, as any check function does."""
        raise NotImplementedError

    def opened(self) -> None:
        """The Checker has been opened: time begins to count."""

    def held(self, component: object, *, up: bool) -> None:
        """Learn what a component is held to be, which is not up while it is being judged."""
        with self._guard:
            self.down = self.down - {component} if up else self.down | {component}

    def forked(self) -> None:
        """Have a lock that nobody holds, in a forked child."""
        Instant._guard = threading.RLock()

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` called, in the thread that changed it, whenever this says something else."""
        with self._guard:
            self._watchers = (*self._watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Have `watcher` called no more."""
        with self._guard:
            self._watchers = tuple(each for each in self._watchers if each is not watcher)

    def changed(self) -> None:
        """Have everybody who watches look again, now."""
        for watcher in self._watchers:
            watcher()
