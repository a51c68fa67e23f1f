"""What a call of the application's own client pays for being watched, and for being learned from.

The same commands are sent to a Redis as they are, watched, followed by passive health, and as they are once more, which
tells how much of a difference is none.
"""

import time
from collections.abc import Callable
from functools import partial

import redis

from otel_health import Checker
from otel_health_instrumentation.clients import Clients
from otel_health_instrumentation.clients.living import SETTLES
from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.servers import own_redis


def figures(*, quick: bool) -> dict[str, float]:
    """Microseconds of processor time for a command, and how many times that of one that nobody watches."""
    commands, rounds = (100, 2) if quick else (1000, 41)
    with own_redis() as server:
        as_it_is = partial(_unwatched, server.port, commands)
        measures: dict[str, Callable[[], float]] = {
            "as it is": as_it_is,
            "watched": partial(_watched, None, server.port, commands),
            "followed": partial(_watched, 60.0, server.port, commands),
            "again": as_it_is,
        }
        found = in_turns(measures, rounds)
    return {
        "watched": ratio(found, "watched", "as it is"),
        "followed": ratio(found, "followed", "as it is"),
        "noise": ratio(found, "again", "as it is"),
        "command_us": median(found, "as it is"),
        "followed_us": median(found, "followed"),
    }


def _watched(passive_for: float | None, port: int, commands: int) -> float:
    """Once the client is a component."""
    clients = Clients(Checker(), technologies=["redis"], critical=["*"], passive_for=passive_for)
    clients.instrument()
    try:
        return _unwatched(port, commands, clients.look)
    finally:
        clients.uninstrument()


def _unwatched(port: int, commands: int, look: Callable[[], None] = lambda: None) -> float:
    with redis.Redis(port=port) as client:
        client.ping()
        time.sleep(SETTLES)
        look()
        begun = time.process_time()
        for _ in range(commands):
            client.ping()
        return (time.process_time() - begun) / commands * 1e6
