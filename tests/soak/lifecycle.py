"""Rolling restarts lose nothing, dependencies never restart a process, and systemd hears the truth."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

from otel_health import Checker
from otel_health.lifecycle import Systemd
from tests.checks.island import island_there, on_island
from tests.servers import REQUIRED, free_port
from tests.services import Service, serving
from tests.soak import isolation
from tests.soak.figure import Figure, percentile, scaled, silent_checker
from tests.soak.http import until

RATE: Final = 100
"""Requests in a second."""

REQUESTS: Final = 610
"""Requests for each restart; there is a restart as often as that, or less often."""

DELAY: Final = 4.0
"""Seconds of serving on: HAProxy asks every second, wants two failures, and one second is to spare."""

HAPROXY: Final = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 0
    option httpchk GET /readyz
    default-server inter 1s fall 2 rise 2
frontend front
    bind 127.0.0.1:{front}
    default_backend back
backend back
    balance roundrobin
    server a 127.0.0.1:{a} check
    server b 127.0.0.1:{b} check
listen stats
    bind 127.0.0.1:{stats}
    stats enable
    stats uri /
"""


class Restarts:
    """What was seen of the restarts."""

    def __init__(self) -> None:
        self.not_ready: list[float] = []
        self.served_on: list[float] = []
        self.totals: list[float] = []
        self.not_alive = 0


def gate_R9(scale: float) -> Figure:
    """Drain: rolling restarts behind HAProxy lose no request, and an endless stream holds up nothing."""
    promised = (
        f"readyz 503 <= 100 ms, livez 200 until the server shuts down (>= {DELAY:g} s), total <= 25 s even with an "
        f"endless stream, 0 failed of >= {600 * scaled(50, scale, 2)}"
    )
    lacking = [name for name in ("haproxy", "hey") if shutil.which(name) is None]
    if lacking:
        return Figure("R9", promised, f"{lacking} not installed: make services", held=not os.environ.get(REQUIRED))
    seen = Restarts()
    restarts = scaled(50, scale, 2)
    with (
        tempfile.TemporaryDirectory() as name,
        _behind_haproxy(Path(name)) as (services, start, up, front),
        _loaded(front) as load,
    ):
        begun = time.monotonic()
        for number in range(restarts):
            place = "ab"[number % 2]
            _restart(services[place], seen)
            services[place] = start(place)
            until(lambda place=place: up(place))  # type: ignore[misc]
        time.sleep(max(begun + restarts * REQUESTS / RATE - time.monotonic(), 0.0))
    answered, failed = load
    stream = _endless_stream()
    return Figure(
        "R9",
        promised,
        f"{restarts} restarts, {failed} failed of {answered + failed}; readyz 503 after p50 "
        f"{percentile(seen.not_ready, 0.5) * 1000:.0f} ms, worst {max(seen.not_ready) * 1000:.0f} ms; "
        f"{seen.not_alive} not alive, served on >= {min(seen.served_on):.2f} s; total {max(seen.totals):.1f} s, "
        f"{stream:.1f} s with a stream",
        failed == 0
        and answered >= 600 * restarts
        and max(seen.not_ready) <= 0.1
        and seen.not_alive == 0
        and min(seen.served_on) >= DELAY - 0.1
        and max(*seen.totals, stream) <= 25,
    )


Start = Callable[[str], Service]


@contextmanager
def _behind_haproxy(directory: Path) -> Iterator[tuple[dict[str, Service], Start, Callable[[str], bool], int]]:
    """Two services behind a load balancer; how to start one, whether it takes traffic, and where the front is."""
    ports = {place: free_port() for place in ("a", "b", "front", "stats")}
    with ExitStack() as stack:

        def start(place: str) -> Service:
            home = Path(tempfile.mkdtemp(dir=directory))
            return stack.enter_context(serving(home, port=ports[place], DELAY=str(DELAY), CAP="6"))

        def up(place: str) -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", ports["stats"]), timeout=5) as connection:
                connection.sendall(b"GET /;csv HTTP/1.0\r\n\r\n")
                rows = b"".join(iter(lambda: connection.recv(65536), b"")).decode().splitlines()
                return any(row.startswith(f"back,{place},") and ",UP," in row for row in rows)
            return False

        config = directory / "haproxy.cfg"
        config.write_text(HAPROXY.format(**ports))
        services = {place: start(place) for place in "ab"}
        proxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)], stderr=subprocess.DEVNULL)
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        until(lambda: up("a") and up("b") and services["a"].get("/readyz") == services["b"].get("/readyz") == 200)
        time.sleep(3)  # HAProxy believes a server that it has never asked to be up.
        yield services, start, up, ports["front"]


@contextmanager
def _loaded(port: int) -> Iterator[list[int]]:
    """Send a steady stream of requests meanwhile; how many were answered, and how many failed, once it is over."""
    figures: list[int] = []
    command = ["hey", "-z", "1h", "-c", "10", "-q", str(RATE // 10), f"http://127.0.0.1:{port}/hello"]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield figures
    finally:
        load.send_signal(signal.SIGINT)
        summary = load.communicate(timeout=60)[0]
    answers = {int(code): int(count) for code, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", summary)}
    errors = summary.partition("Error distribution:")[2]
    failed = sum(count for code, count in answers.items() if code != 200)
    failed += sum(int(count) for count in re.findall(r"^\s*\[(\d+)\]", errors, re.MULTILINE))
    if failed:
        print(summary)
    figures += [answers.get(200, 0), failed]


def _restart(service: Service, seen: Restarts) -> None:
    """End one service as a rolling restart does, and look at it from near by."""
    sent = service.signal()
    seen.not_ready.append(service.waits_for("/readyz", 503) - sent)
    alive = sent
    while service.process.poll() is None:
        status = service.get("/livez")
        if status == 200:
            alive = time.monotonic()
        elif status is not None:
            seen.not_alive += 1
        time.sleep(0.05)
    seen.served_on.append(alive - sent + 0.05)
    seen.totals.append(time.monotonic() - sent)
    service.close()


def _endless_stream() -> float:
    """Seconds from SIGTERM to the end, at the defaults, of a service that a client holds on to."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name), DELAY="10", CAP="15") as service:
        service.waits_for("/readyz", 200)
        stream = service.connect()
        stream.request("GET", "/events")
        answer = stream.getresponse()
        held = threading.Thread(target=_drink, args=(answer,))
        held.start()
        sent = service.signal()
        ended = service.ends(60)
        held.join()
        stream.close()
        return ended - sent


def _drink(answer: HTTPResponse) -> None:
    """Read until there is no more, or until the other side has gone."""
    with suppress(OSError, HTTPException):
        while answer.read(1024):
            pass


# Liveness is nobody's but the process's.


def gate_R11(scale: float) -> Figure:
    """Liveness isolation: a dependency that is frozen or gone never makes a process look dead."""
    seen = asyncio.run(isolation.of_servers(scale))
    names = "names not tried: no network of one's own can be had here"
    if island_there():
        of_names = isolation.Seen(**on_island("tests.soak.isolation", str(scale)))  # type: ignore[arg-type]
        names = f"of these {len(of_names.noticed)} of the name server"
        seen = seen.and_also(of_names)
    alive, passed = seen.lives.count(200), seen.informational.count(200)
    return Figure(
        "R11",
        f"livez and an informational probe always 200, readyz 503 <= {isolation.NOTICED:.2f} s, "
        f"200 <= {isolation.RECOVERED:.2f} s, and 200 without a registry",
        f"livez {alive} of {len(seen.lives)}, informational {passed} of {len(seen.informational)}; "
        f"{len(seen.noticed)} outages noticed within {max(seen.noticed):.2f} s, over in {max(seen.recovered):.2f} s, "
        f"{names}; {seen.ready_without.count(200)} of {len(seen.ready_without)} ready without a registry",
        alive == len(seen.lives)
        and passed == len(seen.informational)
        and seen.ready_without.count(200) == len(seen.ready_without)
        and max(seen.noticed) <= isolation.NOTICED
        and max(seen.recovered) <= isolation.RECOVERED,
    )


# systemd.

WATCHDOGS: Final = (0.1, 0.3, 1.0, 5.0, 60.0)
"""Seconds."""


def gate_R21(scale: float) -> Figure:
    """The watchdog hears twice in its time, and nothing of a blocked loop or of another process's business."""
    asked = max(120 * scale, 3.0)
    watchdogs = [seconds for seconds in WATCHDOGS if seconds <= asked]
    gaps = asyncio.run(_pings(watchdogs, asked))
    blocked = asyncio.run(_blocked())
    others = sum(map(len, asyncio.run(_heard([0.1], 1.0, pid="1"))))
    shares = ", ".join(f"{seconds:g} s: {gap / seconds:.2f}" for seconds, gap in gaps.items())
    return Figure(
        "R21",
        "pings at most 0.50 of WATCHDOG_USEC apart, 0 of a blocked loop, 0 with another WATCHDOG_PID",
        f"largest gaps {shares}; {blocked} of a blocked loop, {others} with another pid",
        all(gap <= seconds / 2 for seconds, gap in gaps.items()) and blocked == 0 and others == 0,
    )


async def _pings(watchdogs: list[float], asked: float) -> dict[float, float]:
    heard = await _heard(watchdogs, asked, pid=str(os.getpid()))
    gaps = {}
    for seconds, pings in zip(watchdogs, heard, strict=True):
        gaps[seconds] = max((after - before for before, after in itertools.pairwise(pings)), default=float("inf"))
    return gaps


async def _heard(watchdogs: list[float], asked: float, pid: str, block: float = 0.0) -> list[list[float]]:
    """When each watchdog was fed, in this time."""
    heard: list[list[float]] = [[] for _ in watchdogs]
    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as directory:
        sockets = []
        for number, _ in enumerate(watchdogs):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            listener.bind(f"{directory}/{number}")
            listener.settimeout(0.2)
            sockets.append(listener)

        def listen(number: int) -> None:
            while not stopped.is_set():
                with suppress(TimeoutError):
                    if b"WATCHDOG=1" in sockets[number].recv(4096):
                        heard[number].append(time.monotonic())

        threads = [threading.Thread(target=listen, args=(number,)) for number, _ in enumerate(watchdogs)]
        for thread in threads:
            thread.start()
        checker: Checker = silent_checker()
        telling = []
        async with checker:
            for number, seconds in enumerate(watchdogs):
                os.environ["NOTIFY_SOCKET"] = f"{directory}/{number}"
                os.environ |= {"WATCHDOG_USEC": str(int(seconds * 1e6)), "WATCHDOG_PID": pid}
                telling.append(await Systemd(checker).__aenter__())
            await asyncio.sleep(asked)
            if block:
                await asyncio.sleep(0)
                begun = time.monotonic() + 0.02
                time.sleep(block)  # noqa: ASYNC251 - the block itself.
                ended = time.monotonic()
                heard = [[at for at in pings if begun < at < ended] for pings in heard]
            for systemd in telling:
                await systemd.__aexit__(None, None, None)
        stopped.set()
        for thread in threads:
            thread.join()
        for listener in sockets:
            listener.close()
    return heard


async def _blocked() -> int:
    return sum(map(len, await _heard([0.1], 0.3, pid=str(os.getpid()), block=1.0)))
