"""What a call of the application's own client pays for being watched, and for being learned from.

The same commands are sent to a Redis as they are, watched, followed by passive health, and as they are once more: the
quartiles of how far they are from themselves tell how much of a difference is none. Each is sent by a process of its
own, since classes that were hooked and given back are slower for a while; and those are started anew several times,
because what is the same differs between them.
"""

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import Final

import redis

from otel_health import Checker
from otel_health_instrumentation.clients import Clients
from otel_health_instrumentation.clients.living import SETTLES
from tests.benchmarks.interleaved import Slices, in_turns, median, noise, ratio
from tests.benchmarks.servers import apart
from tests.servers import own_redis

KINDS: Final = ("as it is", "watched", "followed", "again")
PASSIVE_FOR: Final = 60.0


def figures(*, quick: bool) -> dict[str, float]:
    """Microseconds of processor time for a command, and how many times that of one that nobody watches."""
    commands, rounds, starts = (100, 1, 2) if quick else (500, 12, 15)
    core = apart()
    with own_redis() as server:
        found = [_started(server.port, core, commands, rounds) for _ in range(starts)]

    def beside(kind: str) -> list[float]:
        return [ratio(each, kind, "as it is") for each in found]

    return {
        "watched": statistics.median(beside("watched")),
        "followed": statistics.median(beside("followed")),
        **noise(beside("again")),
        "command_us": statistics.median(median(each, "as it is") for each in found),
        "followed_us": statistics.median(median(each, "followed") for each in found),
    }


def _started(port: int, core: int | None, commands: int, rounds: int) -> Slices:
    """The same of a process of each kind, for as long as they live."""
    with ExitStack() as stack:
        senders = {kind: stack.enter_context(_sender(kind, port, commands)) for kind in KINDS}
        for sender in senders.values():
            if core is not None:
                os.sched_setaffinity(sender.pid, {core})
            _microseconds(sender)
        return in_turns({kind: partial(_microseconds, sender) for kind, sender in senders.items()}, rounds)


def _sender(kind: str, port: int, commands: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", __name__, kind, str(port), str(commands)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _microseconds(sender: "subprocess.Popen[str]") -> float:
    assert sender.stdin is not None
    assert sender.stdout is not None
    print(file=sender.stdin, flush=True)
    return float(sender.stdout.readline())


def main(kind: str, port: str, commands: str) -> None:
    """Send as many commands whenever a line is read, and print the microseconds that each took."""
    passive_for = PASSIVE_FOR if kind == "followed" else None
    clients = Clients(Checker(), technologies=["redis"], critical=["*"], passive_for=passive_for)
    if kind in ("watched", "followed"):
        clients.instrument()
    with redis.Redis(port=int(port)) as client:
        client.ping()
        time.sleep(SETTLES)
        clients.look()
        for _ in sys.stdin:
            begun = time.process_time()
            for _ in range(int(commands)):
                client.ping()
            print((time.process_time() - begun) / int(commands) * 1e6, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
