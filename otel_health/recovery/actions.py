"""Recovery actions that many services need."""

import ctypes
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from otel_health.check import require_seconds
from otel_health.ladder import Action, Ladder
from otel_health.lifecycle.drain import Drain
from otel_health.recovery.supervisor import Supervisor

RESETS: Final = ("expire_connections", "drain", "dispose", "clear", "disconnect", "check")
"""How pools call it: asyncpg; psycopg_pool from 3.3; SQLAlchemy; aiomysql and asyncmy; Redis and Valkey; psycopg_pool
before that."""


def ladder(*actions: Action) -> Ladder:
    """Return recovery actions of which each is taken when the one before it did not help.

    A component that has been up again begins anew with the first.

    A component has three attempts in ten minutes, so there are at most three steps; the last one is repeated.

    Raises:
        ValueError: There are none, or more than three.

    Example:
        >>> checker.add("postgres", ping, recover=ladder(reset_pool(pool), graceful_restart(drain)))
    """
    return Ladder(actions)


def reset_pool(pool: object) -> Action:
    """Return an action that has a pool open new connections in place of those that it holds.

    Connections that are in use are left to those who use them.

    Args:
        pool: A pool of asyncpg, psycopg_pool, aiomysql or asyncmy, an engine of SQLAlchemy, sync or async, or the
            `connection_pool` of a client of Redis or Valkey.

    Raises:
        TypeError: It has no method that does this.
    """
    for name in RESETS:
        method = getattr(pool, name, None)
        if callable(method):
            return partial(method, inuse_connections=False) if name == "disconnect" else method
    raise TypeError(
        f"a {type(pool).__name__} cannot be reset: it has none of {', '.join(RESETS)}; pass the pool of the client, "
        "or a function of your own"
    )


def restart(supervisor: Supervisor, name: str) -> Action:
    """Return an action that ends a supervised task, and starts it anew; see `Supervisor.restart`.

    For a task that was given up, or one that hangs and no longer beats.

    Example:
        >>> checker.heartbeat("consumer", max_age=60, recover=restart(supervisor, "consuming"))
    """
    return partial(supervisor.restart, name)


def free_caches(*clear: Callable[[], object]) -> Action:
    """Return an action that empties caches, collects garbage, and gives free memory back to the system.

    It runs in a thread, but a collection holds the interpreter: about a second for each ten million objects.

    Args:
        clear: What empties the caches, such as the `cache_clear` of a function that is cached by functools.

    Raises:
        TypeError: One of them cannot be called.

    Example:
        >>> checker.add("memory", cgroup.memory(warn=0.8, fail=0.95), recover=free_caches(prices.cache_clear))
    """
    for each in clear:
        if not callable(each):
            raise TypeError(f"free_caches: a {type(each).__name__} cannot be called; pass what empties the cache")

    def free() -> None:
        for each in clear:
            each()
        gc.collect()
        _trim()

    return free


def _trim() -> None:
    """Have the allocator give back what it keeps for later, where it is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def graceful_restart(
    drain: Drain,
    *,
    failing_for: float = 120.0,
    min_uptime: float = 600.0,
    clock: Callable[[], float] = time.monotonic,
) -> Action:
    """Return an action that ends this process in good order, for whoever watches over it to start it anew.

    It is a SIGTERM: not ready at once, serving for the drain's delay, the server's own shutdown. The last step of a
    ladder, and a dangerous one: what has failed may have failed for every replica, and a restart mends no server.

    Args:
        drain: What a SIGTERM begins; it has to be entered, in the main thread.
        failing_for: Seconds that the component must have failed for without a break; until then the action is not
            taken, which costs no attempt. For a heartbeat more than its `max_age`: after a restart of what beats,
            the next beat may take so long.
        min_uptime: Seconds after this call before which it fails instead: a fleet that restarts all the time is
            worse than one that is degraded.
        clock: Monotonic seconds; for tests that control time.

    Raises:
        TypeError: It is no drain.
        ValueError: `failing_for` or `min_uptime` is no positive, finite number of seconds.
    """
    if not callable(getattr(drain, "stop", None)):
        raise TypeError(f"graceful_restart: a {type(drain).__name__} is no Drain; pass the one that the process enters")
    require_seconds("graceful_restart", "failing_for", failing_for)
    require_seconds("graceful_restart", "min_uptime", min_uptime)
    since = clock()

    async def restart_process() -> None:
        uptime = clock() - since
        if uptime < min_uptime:
            raise RuntimeError(f"no restart after {uptime:.0f} s: that is less than min_uptime={min_uptime:g}")
        drain.stop("restarting")

    restart_process.failing_for = failing_for  # type: ignore[attr-defined]
    return restart_process
