"""Hooks: a class tells of its new objects, a module that it was imported; both are taken back without a trace."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import ModuleType
from typing import Any, Final

from wrapt import FunctionWrapper, register_post_import_hook

from otel_health.check import is_async
from otel_health_instrumentation.guard import guarded

Undo = Callable[[], None]
Notice = Callable[[Any, Sequence[Any], Mapping[str, Any]], None]
"""Is told of a new object, and of the arguments that it was made with."""
Hook = Callable[[ModuleType], None]

_IMMUTABLE: Final = 1 << 8
"""The flag of a class of C: Py_TPFLAGS_IMMUTABLETYPE."""

_MADE: Final = "_otel_health_made"
"""By which a class of ours is known."""

_waiting: Final[dict[str, list[Hook]]] = {}
"""Who waits for a module; the import machinery is told of each module once in the life of the process."""


def replace(kind: type, name: str, replacement: Callable[..., Any]) -> Undo:
    """Put something in the place of what a class has under a name; the returned function puts that back."""
    stored = vars(kind).get(name)
    setattr(kind, name, replacement)

    def undo() -> None:
        # Whoever wrapped it after us keeps what they wrapped.
        if vars(kind).get(name) is replacement:
            if stored is None:
                delattr(kind, name)
            else:
                setattr(kind, name, stored)

    return undo


def on_made(kind: type, notice: Notice) -> Undo:
    """Have `notice` called with every new object of a class; the returned function ends that.

    The constructor is wrapped, and not the functions that call it: it stands in one place, whoever imported it before.
    It raises what it raised before, and nothing else. Whoever looks at its code sees that of the original: SQLAlchemy
    learns there which options are an engine's.
    """
    made = _Noticing(kind, notice)

    def constructor(_: object, thing: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        made(thing, args, kwargs)

    put_back = replace(kind, "__init__", FunctionWrapper(made.original, constructor))

    def undo() -> None:
        made.notice = None
        put_back()

    return undo


def followed(
    method: Callable[..., Any],
    failed: Callable[[Any], None],
    succeeded: Callable[[Any, Any], None] = lambda _, __: None,
) -> Callable[..., Any]:
    """Return a method, sync or async as this one is, that does the same, and tells how it ended."""

    @wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            value = method(self, *args, **kwargs)
        except BaseException:
            failed(self)
            raise
        succeeded(self, value)
        return value

    @wraps(method)
    async def call_async(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            value = await method(self, *args, **kwargs)
        except BaseException:
            failed(self)
            raise
        succeeded(self, value)
        return value

    return call_async if is_async(method) else call


def needs_stand_in(kind: type) -> bool:
    """Whether nothing in a class can be wrapped, because it is written in C, and no class of ours stands before it."""
    idle = vars(kind).get(_MADE)
    return bool(kind.__flags__ & _IMMUTABLE) or (idle is not None and idle.notice is None)


def stand_before(module: ModuleType, name: str, notice: Notice) -> Undo:
    """Put a class of ours before one in which nothing can be wrapped; see `on_made`.

    Whoever looks it up in the module from now on gets ours, whose objects can be held weakly, and count as made by the
    other. What the other makes does not count as made by ours: that would take a metaclass, and then whoever has one of
    their own could not derive from it.
    """
    kind = vars(module)[name]
    if _MADE in vars(kind):
        kind = vars(kind)[_MADE].kind  # One of ours that is idle was put back by somebody who had found it there.
    made = _Noticing(kind, notice)

    def constructor(self: object, *args: Any, **kwargs: Any) -> None:
        made(self, args, kwargs)

    said = {"__init__": constructor, "__doc__": kind.__doc__, "__module__": kind.__module__, _MADE: made}
    ours = type(kind)(name, (kind,), said)
    setattr(module, name, ours)

    def undo() -> None:
        made.notice = None
        if vars(module).get(name) is ours:
            setattr(module, name, kind)

    return undo


class _Noticing:
    """A constructor that tells of what it made, for as long as somebody wants to know."""

    def __init__(self, kind: type, notice: Notice) -> None:
        self.original: Callable[..., None] = kind.__init__  # type: ignore[misc] # It is looked up for this very class.
        self.notice: Notice | None = notice
        self.kind = kind

    def __call__(self, thing: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.original(thing, *args, **kwargs)
        if self.notice is not None:
            with guarded(f"notice a new {self.kind.__qualname__}"):
                self.notice(thing, args, kwargs)


def all_of(*undo: Undo) -> Undo:
    """Return one function that does them all."""

    def undo_all() -> None:
        for each in undo:
            each()

    return undo_all


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
