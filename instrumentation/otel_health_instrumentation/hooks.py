"""Methods of other people's classes that are led through ours, and given back."""

import sys
from collections.abc import Callable
from functools import partial, wraps
from types import ModuleType
from typing import Any, Final, NamedTuple

import wrapt

from otel_health_instrumentation.guard import guarded

Method = Callable[..., Any]


class Seam(NamedTuple):
    """A method that is led through ours, wherever and whenever its module is imported."""

    module: str
    owner: str
    method: str
    lead: Callable[[Method], Method]
    """Makes the method that stands in the place of the one it is given."""


class Hooks:
    """The seams that are hooked now.

    A method is exchanged in its class, so it does not matter who has imported the class before. What we put in is inert
    once it is given back, for somebody may have wrapped it meanwhile and keep it.
    """

    def __init__(self, *seams: Seam) -> None:
        self._seams = seams
        self._taken: list[tuple[type, str, Method, Method]] = []

    def hook(self) -> None:
        """Hook what is imported by now, and the rest when it is."""
        _hooked.append(self)
        for name in dict.fromkeys(seam.module for seam in self._seams):
            if name in sys.modules:
                self.imported(name, sys.modules[name])
            elif name not in _awaited:
                _awaited.add(name)
                wrapt.register_post_import_hook(partial(_imported, name), name)

    def unhook(self) -> None:
        """Give every method back, unless somebody has put another in its place."""
        if self in _hooked:
            _hooked.remove(self)
        while self._taken:
            owner, method, original, ours = self._taken.pop()
            if vars(owner).get(method) is ours:
                setattr(owner, method, original)

    def imported(self, name: str, module: ModuleType) -> None:
        """Hook what this module has."""
        for seam in self._seams:
            if seam.module == name:
                with guarded(f"hook {name}:{seam.owner}.{seam.method}"):
                    self._take(getattr(module, seam.owner), seam)

    def _take(self, found: type, seam: Seam) -> None:
        # Instrumentors put a subclass in the place of the class, and take it away again: ours is the class itself.
        owner = next(each for each in found.__mro__ if seam.method in vars(each))
        original = vars(owner)[seam.method]
        ours = wraps(original)(seam.lead(original))
        self._taken.append((owner, seam.method, original, ours))
        setattr(owner, seam.method, ours)


_hooked: Final[list[Hooks]] = []
_awaited: Final[set[str]] = set()
"""Import hooks cannot be taken back: each is registered once, and asks who wants to know."""


def _imported(name: str, module: ModuleType) -> None:
    for hooks in tuple(_hooked):
        hooks.imported(name, module)
