"""The clients that live, and which of them are components: those that have lived for a while, and are open."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Final
from weakref import ref

from otel_health.forks import tell_of_forks
from otel_health.threads import start
from otel_health_instrumentation.clients.technology import Server, Technology
from otel_health_instrumentation.guard import guarded

LIVES: Final = 1.0
"""Seconds after which a client is one that stays, and between two looks at those that do."""

SETTLES: Final = 0.05
"""Seconds after which a client is sure to be fully made; what happens within them is looked at once."""


class Client:
    """A client that the application made, held weakly."""

    __slots__ = ("_end", "_server", "made_at", "number", "reference", "technology")

    def __init__(self, client: Any, technology: Technology, made_at: float, number: int) -> None:
        self.reference: ref[Any] = ref(client)
        self.technology = technology
        self.made_at = made_at
        self.number = number
        self._server: Server | None = None
        self._end: ref[Any] | None = None

    def server(self, client: object) -> Server | None:
        """What it speaks to, which does not change."""
        if self._server is None:
            self._server = self.technology.server(client)
        return self._server

    def tell_of_its_end(self, client: object, ended: Callable[[object], None]) -> None:
        """Have `ended` called when the client is gone, in the middle of whatever some thread does then."""
        if self._end is None:
            self._end = ref(client, ended)

    def usable(self) -> Any:
        """The client itself, if it lives and can be asked; None otherwise."""
        client = self.reference()
        return client if client is not None and self.technology.can_be_asked(client) else None


Components = Mapping[Server, Sequence[Client]]
"""What the application depends on, each with the clients that can be asked for it, the newest last."""


class Living:
    """Knows the clients that the application makes: who stays, who is closed, who is gone.

    Args:
        changed: Called, by whoever looked, with the components that there are now.
        at_once: Whether a client of this server is a component before it has lived for a while; None where none is.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        changed: Callable[[Components], None],
        at_once: Callable[[Server], bool] | None,
        clock: Callable[[], float],
    ) -> None:
        self._changed = changed
        self._at_once = at_once
        # To learn what a client speaks to may cost a look at the whole heap: not for those that are gone in a moment.
        self._known_after = LIVES if at_once is None else SETTLES
        self._clock = clock
        self._numbers = count()
        self._known: list[Client] = []
        self._new: deque[Client] = deque()
        self.components: Components = {}
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Have a lock that nobody holds, in a forked child, and no thread; what is known lives there as well."""
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._wake.put(None)
        self._watching: object | None = None

    def add(self, client: object, technology: Technology) -> None:
        """Know of a client from now on."""
        # No lock is taken: whoever makes a client may be anywhere, even in a finalizer in the middle of a look.
        self._new.append(Client(client, technology, self._clock(), next(self._numbers)))
        if self._watching is None:
            # Perhaps nobody ever looks: whoever is gone leaves, two of the oldest for each that comes.
            with suppress(IndexError):
                for _ in range(2):
                    oldest = self._new.popleft()
                    if oldest.reference() is not None:
                        self._new.append(oldest)
        self._rouse()

    def watch(self) -> None:
        """Look once a second, and when a client is made or gone, in a thread of its own."""
        if self._watching is None:
            self._watching = watching = object()
            start(partial(self._watch, self._wake, watching), "otel_health-clients")

    def forget(self) -> None:
        """Know of nobody any more, and look no more; nothing is a component."""
        with self._lock:
            self._watching = None
            self._known, self._new = [], deque()
            self.components = {}
            self._changed(self.components)
        self._wake.put(None)

    def look(self) -> None:
        """See who lives and can be asked, and tell of the components that there are."""
        with self._lock:
            now = self._clock()
            with suppress(IndexError):
                while True:
                    self._known.append(self._new.popleft())
            self._known.sort(key=lambda each: each.number)
            known, components = [], dict[Server, list[Client]]()
            for each in self._known:
                client = each.reference()
                if client is None:
                    continue
                server = None
                if now - each.made_at >= self._known_after:
                    with guarded(f"look at a client of {each.technology.name}"):
                        server = each.server(client)
                    if server is None:
                        continue
                known.append(each)
                if server is not None and self._stays(each, server, now) and each.usable() is not None:
                    each.tell_of_its_end(client, self._ended)
                    components.setdefault(server, []).append(each)
            self._known, self.components = known, components
            self._changed(components)

    def _stays(self, each: Client, server: Server, now: float) -> bool:
        return now - each.made_at >= LIVES or (self._at_once is not None and self._at_once(server))

    def settling(self) -> bool:
        """Whether a client may be a component at once that was not looked at yet, for it has just been made."""
        now = self._clock()
        return self._at_once is not None and any(now - each.made_at < SETTLES for each in self._known)

    def _ended(self, _: object) -> None:
        # The garbage collector calls this at any time, whatever locks are held: no more is done here.
        self._rouse()

    def _rouse(self) -> None:
        if self._wake.empty():
            self._wake.put(None)

    def _watch(self, wake: "SimpleQueue[None]", watching: object) -> None:
        while self._watching is watching:
            with suppress(Empty):
                wake.get(timeout=LIVES if self._known or self._new else None)
            time.sleep(SETTLES)
            while not wake.empty():
                wake.get_nowait()
            if self._watching is watching:
                with guarded("look at the clients"):
                    self.look()
        # Another thread may wait for what was taken here.
        wake.put(None)
