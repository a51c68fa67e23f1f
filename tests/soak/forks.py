"""Workers: forked under load, and as servers really run them."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from threading import Event, Thread
from typing import Final

from otel_health import Checker
from tests.services import Service, serving
from tests.soak.figure import Figure, scaled, silent_checker
from tests.soak.http import until

ALIVE_SECONDS: Final = 1.0
"""In which a worker's scheduler has to live."""

DEADLOCK_SECONDS: Final = 20
"""After which a child that does not end is taken for dead."""

SERVED: Final = '''
"""Says when it was opened, when a check of its own has run, and runs one in a thread before the fork."""
import asyncio, logging, os, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from otel_health import Checker
from otel_health.workers import Workers

def say(word):
    with open(os.environ["SAID"], "a") as said:
        said.write(f"{time.monotonic()} {word} {os.getpid()}\\n")

checker = Checker(interval=0.2)
checker.add("thread", lambda: say("alive"), probes={"readyz", "warm"})
if os.environ["WARM"]:
    asyncio.run(checker.run("warm"))

@asynccontextmanager
async def lifespan(app):
    say("opened")
    async with checker, Workers(checker, wedged_after=1.0):
        yield

app = Starlette(routes=checker.routes(), lifespan=lifespan)
'''

SERVERS: Final = {"gunicorn-4": 4, "gunicorn-4-preload": 4, "workers": 2, "reload": 1}

IMPORTED: Final = """
import asyncio, os, sys, threading
before = set(os.listdir("/proc/self/fd"))
import otel_health, otel_health.lifecycle, otel_health.prometheus, otel_health.workers
print(threading.active_count() - 1 + len(set(os.listdir("/proc/self/fd")) - before))
"""


def gate_R14(scale: float) -> Figure:
    """Fork and workers: every worker's scheduler lives, one that is wedged is seen, and no fork ever deadlocks."""
    forks = scaled(1000, scale, 20)
    deadlocks = _deadlocks(forks)
    slowest, wedged, missing = 0.0, 0, 0
    for server, count in SERVERS.items():
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            settings = {"XDG_RUNTIME_DIR": name, "WARM": "1" if "preload" in server else ""}
            with serving(Path(name), server, SERVED, 0, **settings) as service:
                alive = _alive(service, count)
                slowest, missing = max(slowest, *alive), missing + count - len(alive)
                wedged += server == "gunicorn-4" and _is_seen(service)
    imported = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    started = imported.stdout.strip()
    return Figure(
        "R14",
        f"0 deadlocks in {forks} forks; each worker alive <= {ALIVE_SECONDS:g} s; 1 wedged of 4 seen; import starts 0",
        f"{deadlocks} deadlocks; {missing} missing of {sum(SERVERS.values())}, slowest {slowest:.2f} s; "
        f"wedged {'seen' if wedged else 'not seen'}; import started {started}",
        deadlocks == 0 and missing == 0 and slowest <= ALIVE_SECONDS and wedged == 1 and started == "0",
    )


def _deadlocks(forks: int) -> int:
    """Fork beside a loop under load, at any moment; how many children did not come to report a pass."""
    checker = silent_checker(interval=0.01, timeout=0.5)
    for number in range(50):
        checker.add(f"sync-{number}", lambda: time.sleep(0.001))
        checker.gate(f"gate-{number}", ready=True)
    ended = Event()

    async def parent() -> None:
        async with checker:
            await asyncio.to_thread(ended.wait)

    thread = Thread(target=asyncio.run, args=(parent(),))
    thread.start()
    until(lambda: checker.is_open)
    try:
        return sum(_forked(checker) != 0 for _ in range(forks))
    finally:
        ended.set()
        thread.join()


def _forked(checker: Checker) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(DEADLOCK_SECONDS)
        try:
            asyncio.run(_reopened(checker))
        except BaseException:  # noqa: BLE001 - the child must not go on with what its parent was doing.
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def _reopened(checker: Checker) -> None:
    checker.add("own", lambda: None)
    ready = asyncio.Event()
    checker.subscribe(lambda _: ready.set() if checker.report().status.up else None)
    async with checker:
        if not checker.report().status.up:
            await ready.wait()


def _alive(service: Service, count: int) -> list[float]:
    """Seconds from the opening of each worker's Checker to the first run of a check in it."""

    def said() -> dict[str, dict[int, float]]:
        words: dict[str, dict[int, float]] = {"opened": {}, "alive": {}}
        lines = service.said_in.read_text().splitlines() if service.said_in.exists() else []
        for at, word, pid in (line.split() for line in lines):
            # The master's own run, before the fork, is no worker's.
            if word == "opened" or int(pid) in words["opened"]:
                words[word].setdefault(int(pid), float(at))
        return words

    until(lambda: len(said()["alive"]) >= count)
    words = said()
    return [words["alive"][pid] - opened for pid, opened in words["opened"].items()]


def _is_seen(service: Service) -> bool:
    """Whether a worker that is stopped is shown by the others."""
    victim = int(service.said_in.read_text().split()[-1])
    os.kill(victim, signal.SIGSTOP)
    try:
        until(lambda: b"workers: degraded" in _body(service))
    finally:
        os.kill(victim, signal.SIGCONT)
    return True


def _body(service: Service) -> bytes:
    connection = service.connect()
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().read()
    finally:
        connection.close()
