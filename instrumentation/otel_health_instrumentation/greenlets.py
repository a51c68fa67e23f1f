"""gevent, which puts greenlets in the place of threads: clients are asked in greenlets beside the application's own."""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


def beside_this() -> Callable[[Callable[[], Result]], Result]:
    """Return what has a call made in a greenlet of this thread, and waits for it in another thread.

    What the application's clients hold, such as sockets and locks, is of use to the greenlets of one thread alone.
    """
    gevent = import_module("gevent")
    loop = gevent.get_hub().loop

    def made(call: Callable[[], Result]) -> Result:
        outcome: SimpleQueue[Callable[[], Result]] = SimpleQueue()
        context = copy_context()

        def work() -> None:
            try:
                result = context.run(call)
            except BaseException as error:  # noqa: BLE001 - it is raised where the call was asked for.
                outcome.put(partial(_raised, error))
            else:
                outcome.put(lambda: result)

        loop.run_callback_threadsafe(gevent.spawn, work)
        return outcome.get()()

    return made


def _raised(error: BaseException) -> Any:
    raise error
