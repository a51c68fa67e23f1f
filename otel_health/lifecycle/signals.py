"""Standing before somebody else's signal handler, without taking its place."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Chain:
    """A handler of ours before the one that a signal has already.

    Install and restore it in the main thread; other threads cannot handle signals.

    Args:
        number: The signal.
        handler: Called instead of the handler that is there, as that would be.
        loop: The running loop, which may have handlers of its own.
    """

    def __init__(self, number: signal.Signals, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        self._handler = handler
        self._loop = loop
        self._previous: Handler | signal.Handlers | None = None
        self._on_loop: asyncio.Handle | None = None
        """What `loop.add_signal_handler` was given: such a handler is called by the loop, whatever else is set."""

    def install(self) -> str | None:
        """Stand before the handler that is there; why that cannot be, where it cannot."""
        previous = signal.getsignal(self._number)
        if previous is signal.SIG_IGN:
            return "it is ignored"
        if previous is None:
            return "its handler was not set by Python"
        if getattr(previous, "__self__", None) is self._loop:
            return "its handler was set with add_signal_handler on a loop that does not tell which; call begin() in it"
        # A standard loop keeps these in a private place only; without it a handler of the loop's could not be held up.
        self._on_loop = getattr(self._loop, "_signal_handlers", {}).get(self._number)
        if self._on_loop is not None:
            self._loop.add_signal_handler(self._number, self._handler, int(self._number), None)
        else:
            self._previous = previous  # type: ignore[assignment]
            signal.signal(self._number, self._handler)
        return None

    def restore(self) -> None:
        """Put back what was there, unless somebody has set another handler since."""
        if self._on_loop is not None:
            ours = getattr(self._loop, "_signal_handlers", {}).get(self._number)
            if ours is not None and ours._callback == self._handler:  # noqa: SLF001 - as in install.
                self._loop.add_signal_handler(self._number, *_call(self._on_loop))
            self._on_loop = None
        elif self._previous is not None:
            if signal.getsignal(self._number) == self._handler:
                signal.signal(self._number, self._previous)
            self._previous = None

    def forked(self) -> None:
        """Put back what was there, in a forked child; the loop, and what it was given, are the parent's."""
        if self._on_loop is None:
            self.restore()

    @property
    def is_default(self) -> bool:
        """Whether the signal would simply end the process."""
        return self._previous is signal.SIG_DFL

    def pass_on(self, frame: FrameType | None) -> None:
        """Do what would have been done without us."""
        if self._on_loop is not None:
            callback, *arguments = _call(self._on_loop)
            with suppress(RuntimeError):  # The loop is closed, and its handlers with it.
                self._loop.call_soon_threadsafe(callback, *arguments)
        elif self._previous is signal.SIG_DFL:
            signal.signal(self._number, signal.SIG_DFL)
            signal.raise_signal(self._number)
        elif callable(self._previous):
            self._previous(int(self._number), frame)


def _call(handle: asyncio.Handle) -> tuple[Any, ...]:
    return (handle._callback, *handle._args)  # type: ignore[attr-defined]  # noqa: SLF001 - as in install.
