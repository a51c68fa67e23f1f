"""An event loop in a thread of ours, for applications that have none."""

import asyncio
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from otel_health.forks import leave, tell_of_forks

Result = TypeVar("Result")

STOP_SECONDS: Final = 2.0
"""How long stopping waits, at most, for the thread to end."""


class Background:
    """A loop in a daemon thread, which begins with the first call, in whatever process that is made."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew: a forked child has no such thread, and the loop is the parent's."""
        self._lock = threading.Lock()
        if self._loop is not None:
            leave(self._loop)
        self._loop = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether there is a thread."""
        return self._loop is not None

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Have a coroutine run on the loop; its future may be waited for in any other thread.

        Raises:
            RuntimeError: There are greenlets in the place of threads.
        """
        with self._lock:
            if self._loop is None:
                if _threads_are_greenlets():
                    coroutine.close()
                    raise RuntimeError("gevent or eventlet has replaced threads; use sync or threaded workers")
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="otel_health-background", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        """End the thread; a later call begins another."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_SECONDS)


def _threads_are_greenlets() -> bool:
    """Whether a loop in a thread of ours would be in the application's own thread, which then could have none."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
