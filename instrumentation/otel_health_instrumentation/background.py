"""An event loop in a thread of ours, for applications that have none."""

import asyncio
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from selectors import DefaultSelector
from typing import Any, Final, TypeVar

from otel_health.forks import leave, tell_of_forks
from otel_health.threads import are_greenlets, start

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
        self._ended: SimpleQueue[None] = SimpleQueue()

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
                if _no_thread_is_real():
                    coroutine.close()
                    raise RuntimeError("greenlets have replaced threads; use sync, threaded or gevent workers")
                self._loop = _new_loop()
                self._ended = SimpleQueue()
                start(partial(_run, self._loop, self._ended), "otel_health-background")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        """End the thread; a later call begins another."""
        with self._lock:
            loop, self._loop, ended = self._loop, None, self._ended
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            with suppress(Empty):
                ended.get(timeout=STOP_SECONDS)


def _new_loop() -> asyncio.AbstractEventLoop:
    # What gevent has put in the place of selectors by now waits for greenlets.
    return asyncio.SelectorEventLoop(DefaultSelector()) if are_greenlets() else asyncio.new_event_loop()


def _no_thread_is_real() -> bool:
    """Whether a loop in a thread of ours would be in the application's own thread, which then could have none.

    It would where gevent had done its work before this was imported. The locks of eventlet know no other thread.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading") and not are_greenlets())
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


def _run(loop: asyncio.AbstractEventLoop, ended: "SimpleQueue[None]") -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
        ended.put(None)
