"""What is known of a client library: what its clients are, what they speak to, and how they are asked."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, NamedTuple, Protocol

from otel_health import CheckFunc

LONGEST_NAME: Final = 64
"""As many letters as the name of a component may have."""

UNTOLD: Final = "default"
"""The host of those that only their driver knows: what stands behind it may be several."""

_FOREIGN: Final = re.compile(r"[^a-z0-9_.-]+")
_UNREAD: Final = re.compile("[@=]")


class Server(NamedTuple):
    """What a client speaks to: one component, however many clients the application makes of it."""

    kind: str
    host: str
    port: int | None = None
    database: str = ""

    @property
    def name(self) -> str:
        """The name of the component, such as `redis-cache.internal-6379-0`: the same after every restart.

        Letters that a name may not hold become `-`. Then, and where it is cut, it ends in a digest, so that what was
        different stays so.
        """
        parts = [str(part) for part in self if part not in (None, "")]
        said, name = "-".join(parts), "-".join(_FOREIGN.sub("-", part).strip("-") for part in parts)
        if name == said and len(name) <= LONGEST_NAME:
            return name
        digest = hashlib.sha256(said.encode(errors="replace")).hexdigest()[:6]
        return f"{name[: LONGEST_NAME - 7]}-{digest}"


def server(kind: str, host: object, port: object = None, database: object = "") -> Server:
    """Return what a client speaks to, from what its settings say.

    Where a host or a database holds more than its name, as for an `@` in a password that should have been escaped,
    nothing of it is told: only the driver knows what is what.
    """
    if kind != "sqlite" and _UNREAD.search(f"{host} {database}"):
        return Server(kind, UNTOLD)
    return Server(kind, str(host).lower(), None if port is None else int(str(port)), str(database))


class Answers(Protocol):
    """What is told of the application's own traffic."""

    def succeeded(self, server: Server, /) -> None: ...
    def failed(self, server: Server, /) -> None: ...


Follow = Callable[[ModuleType, Answers], Callable[[], None]]
"""Has a module tell of traffic from now on; what it returns ends that."""


def _always(_: Any) -> bool:
    return True


def _nowhere(_: Any) -> None:
    return None


def _nothing(*_: Any) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Technology:
    """A client library; its objects are only read, and none is imported.

    Args:
        name: What an operator calls it.
        classes: The classes whose objects are clients, by the module that defines them.
        immutable: Those that are written in C, by the module where they are looked up.
        note: Called with a new client and the arguments it was made with, to remember what it will not tell later.
        server: What a client speaks to; None for one that is no component of its own.
        check: Returns the check of a client, which may hold the client for as long as it runs.
        usable: Whether a client can be asked now: it is open.
        traffic: What learns from the application's own traffic, by the module in which it is seen.
        loop: The event loop that a client belongs to; None for one that may be asked in any thread, on any loop.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]
    server: Callable[[Any], Server | None]
    check: Callable[[Any], CheckFunc]
    usable: Callable[[Any], bool] = field(default=_always)
    loop: Callable[[Any], asyncio.AbstractEventLoop | None] = field(default=_nowhere)
    immutable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: Callable[[Any, Sequence[Any], Mapping[str, Any]], object] = field(default=_nothing)
    traffic: Mapping[str, Follow] = field(default_factory=dict)

    def can_be_asked(self, client: object) -> bool:
        """Whether a client is open, and its loop runs."""
        if not self.usable(client):
            return False
        loop = self.loop(client)
        return loop is None or loop.is_running()
