"""What a forked child has to make anew: locks that somebody may have held, and threads that are gone."""

import itertools
import os
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary


class Forked(Protocol):
    """Something that is not the same in a forked child."""

    def forked(self) -> None:
        """Make anew what was not inherited; called in the child, where no other thread lives."""


_numbers: Final = itertools.count()
_told: Final[WeakValueDictionary[int, Forked]] = WeakValueDictionary()
_left: Final[list[Any]] = []
_hooks: Final[list[str]] = []


def tell_of_forks(thing: Forked) -> None:
    """Have `thing.forked()` called in every child that is forked from now on, in the order of these calls."""
    if not _hooks and hasattr(os, "register_at_fork"):
        _hooks.append("registered")
        os.register_at_fork(after_in_child=_tell)
    _told[next(_numbers)] = thing


def leave(inherited: object) -> None:
    """Keep for good what belongs to the parent.

    Coroutines that are thrown away run their `finally` clauses, which may speak on the parent's connections.
    """
    _left.append(inherited)


def _tell() -> None:
    for number in sorted(_told):
        thing = _told.get(number)
        if thing is not None:
            thing.forked()
