"""Hooks: a class tells of its new objects, a module that it was imported; both are taken back without a trace."""

import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from wrapt import register_post_import_hook

from otel_health_instrumentation.guard import guarded

Undo = Callable[[], None]
Notice = Callable[[Any], None]
Hook = Callable[[ModuleType], None]

_waiting: Final[dict[str, list[Hook]]] = {}
"""Who waits for a module; the import machinery is told of each module once in the life of the process."""


def on_made(kind: type, notice: Notice) -> Undo:
    """Have `notice` called with every new object of a class; the returned function ends that.

    The constructor is wrapped, and not the functions that call it: it stands in one place, whoever imported it before.
    It raises what it raised before, and nothing else.
    """
    stored = vars(kind).get("__init__")
    original: Callable[..., None] = kind.__init__  # type: ignore[misc] # It is looked up for this class and none below.
    listening = True

    @wraps(original)
    def made(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if listening:
            with guarded(f"notice a new {kind.__qualname__}"):
                notice(self)

    kind.__init__ = made  # type: ignore[misc]

    def undo() -> None:
        nonlocal listening
        # Whoever wrapped it after us keeps a wrapper of ours that does nothing.
        listening = False
        if vars(kind).get("__init__") is made:
            if stored is None:
                del kind.__init__  # type: ignore[misc]
            else:
                kind.__init__ = stored  # type: ignore[misc]

    return undo


def when_imported(name: str, hook: Hook) -> Undo:
    """Have `hook` called with a module: now, or as soon as it is imported; the returned function ends that."""
    module = sys.modules.get(name)
    if module is not None:
        hook(module)
        return _nothing
    if name not in _waiting:
        _waiting[name] = []
        register_post_import_hook(_imported, name)
    _waiting[name].append(hook)

    def undo() -> None:
        if hook in _waiting.get(name, ()):
            _waiting[name].remove(hook)

    return undo


def _imported(module: ModuleType) -> None:
    for hook in _waiting.pop(module.__name__, ()):
        with guarded(f"hook {module.__name__}"):
            hook(module)


def _nothing() -> None: ...
