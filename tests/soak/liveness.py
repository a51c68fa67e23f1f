"""Liveness from outside: answered while the loop, the interpreter or a crowd of slow clients stand in the way."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.servers import children, lives
from tests.soak.figure import MEBIBYTE, Figure, percentile, scaled

PROBES_A_SECOND: Final = 50
PATIENCE: Final = 1.0
"""Seconds that kubelet waits for an answer; a later one is a miss."""

STUCK_AFTER: Final = 30.0
SLOW: Final = 500
NEVER: Final = float("inf")

SERVICE: Final = """
import asyncio, ctypes, logging, sys, threading, time
from otel_health import Checker
from otel_health.lifecycle import LivenessServer, LoopMonitor

mode, stuck_after = sys.argv[1], float(sys.argv[2])

def spin():
    while True:
        sum(range(1000))

async def main():
    checker = Checker(logger=logging.Logger("silent", logging.CRITICAL))
    checker.add("quick", lambda: True, local=True, probes={"livez"}, interval=0.2, timeout=0.2)
    async with (
        checker,
        LoopMonitor(checker, stuck_after=stuck_after),
        LivenessServer(checker, port=0, host="127.0.0.1", mode=mode) as server,
    ):
        print(server.port, flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            act, amount = line.split()
            print(time.monotonic(), flush=True)
            if act == "block":
                time.sleep(float(amount))
            elif act == "hold":
                ctypes.PyDLL(None).usleep(int(float(amount) * 1e6))
            elif act == "spin":
                for _ in range(int(amount)):
                    threading.Thread(target=spin, daemon=True).start()

asyncio.run(main())
"""


class Service:
    """A service with a liveness server, in a process of its own that does as it is told."""

    def __init__(self, mode: str, stuck_after: float = STUCK_AFTER) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, mode, str(stuck_after)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._said())
        self.pid = self._process.pid
        self.sidecars = children(self.pid) if mode == "process" else []
        self.serving = self.sidecars[0] if mode == "process" else self.pid
        """The process that answers."""

    def act(self, what: str, amount: float) -> float:
        """Have it do something; when it began: seconds on the monotonic clock, which is the same for all."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {amount}\n")
        self._process.stdin.flush()
        return float(self._said())

    def kill(self) -> None:
        """End it without any goodbye."""
        self._process.kill()
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def running(mode: str, stuck_after: float = STUCK_AFTER) -> Iterator[Service]:
    """A service that is ended in any case."""
    service = Service(mode, stuck_after)
    try:
        yield service
    finally:
        service.kill()


class Probed(NamedTuple):
    """One probe."""

    due: float
    """When it was to be sent: seconds on the monotonic clock."""
    took: float
    """Seconds from then to its answer."""
    status: int
    """0 where there was no answer."""


async def probe(port: int, due: float) -> Probed:
    """Ask once, on a connection of its own, when it is due."""
    await asyncio.sleep(due - time.monotonic())
    status = 0
    try:
        async with asyncio.timeout(10 * PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /livez HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n")
                status = int((await reader.readuntil(b"\r\n")).split()[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, IndexError):
        status = 0
    return Probed(due, time.monotonic() - due, status)


async def probes(port: int, seconds: float, rate: float = PROBES_A_SECOND) -> list[Probed]:
    """Ask at a fixed rate, whatever becomes of the earlier ones."""
    begun = time.monotonic()
    due = [begun + number / rate for number in range(round(seconds * rate))]
    return list(await asyncio.gather(*(probe(port, at) for at in due)))


def answered(probed: list[Probed]) -> int:
    """How many were answered in time."""
    return sum(each.status > 0 and each.took <= PATIENCE for each in probed)


def p99(probed: list[Probed]) -> float:
    """Milliseconds in which 99 % were answered."""
    return percentile((each.took for each in probed), 0.99) * 1000


def slowest(probed: list[Probed]) -> float:
    """Milliseconds that the slowest took."""
    return max(each.took for each in probed) * 1000


def gate_R3(scale: float) -> Figure:
    """Liveness under stall: every probe is answered, by a thread where it can be, by a process whatever happens."""
    seconds = max(60 * scale, 4.0)
    with running("thread") as service:
        service.act("block", seconds + 30)
        stalled = asyncio.run(probes(service.port, seconds))
    with running("process") as service, bare() as port:
        service.act("spin", 16)
        busy, floor = asyncio.run(_both(service.port, port, seconds))
    with running("process") as service:
        service.act("hold", 5.0)
        held = asyncio.run(probes(service.port, 5.0))
    with running("thread") as service:
        service.act("spin", 16)
        limit = asyncio.run(probes(service.port, min(seconds, 20.0), rate=1))
    every = [*stalled, *busy, *held]
    well = all(each.status == 200 for each in (*busy, *held))
    return Figure(
        "R3",
        "all answered; thread p99 <= 50 ms; process p99 <= 50 ms, max <= 500 ms under 16 busy threads and a held GIL",
        f"{answered(every)} of {len(every)}; thread p99 {p99(stalled):.1f} ms, max {slowest(stalled):.0f} ms; "
        f"process busy p99 {p99(busy):.1f} ms, max {slowest(busy):.0f} ms, (a bare socket {p99(floor):.1f} ms), "
        f"held p99 {p99(held):.1f} ms, max {slowest(held):.0f} ms; "
        f"(thread busy p99 {p99(limit):.0f} ms, max {slowest(limit):.0f} ms)",
        answered(every) == len(every)
        and well
        and max(map(p99, (stalled, busy, held))) <= 50
        and max(map(slowest, (busy, held))) <= 500,
    )


async def _both(port: int, other: int, seconds: float) -> tuple[list[Probed], list[Probed]]:
    return await asyncio.gather(probes(port, seconds), probes(other, seconds, rate=10))


BARE: Final = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        client, _ = server.accept()
        client.recv(9999)
        client.send(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        client.close()
"""


@contextmanager
def bare() -> Iterator[int]:
    """The port of the least that can answer: what it takes is the machine's time, and no server's."""
    server = subprocess.Popen([sys.executable, "-I", "-S", "-c", BARE], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


def gate_R4(scale: float) -> Figure:
    """Honest liveness: a stuck loop is told of in time and not before, and nobody answers for a killed process."""
    stuck_after = max(STUCK_AFTER * scale, 2.0)
    late: list[float] = []
    false = 0
    for mode in ("thread", "process"):
        with running(mode, stuck_after) as service:
            service.act("block", stuck_after / 2)
            stalled = asyncio.run(probes(service.port, stuck_after / 2 + 2.0, rate=20))
            false += sum(each.status != 200 for each in stalled)
        with running(mode, stuck_after) as service:
            begun = service.act("block", stuck_after + 3.0)
            stuck = asyncio.run(probes(service.port, stuck_after + 2.0, rate=20))
            failed = [each.due + each.took - begun - stuck_after for each in stuck if each.status == 503]
            late.append(min(failed, default=NEVER))
            false += sum(each.status != 200 and each.due - begun < stuck_after for each in stuck)
    kills = [_kill("process") for _ in range(scaled(100, scale, 3))] + [_kill("thread") for _ in range(3)]
    silent, gone = max(each[0] for each in kills), max(each[1] for each in kills)
    return Figure(
        "R4",
        f"stuck {stuck_after:g} s: 503 within +1 s; half of it: 0 non-200; killed: silent <= 1 s, port free <= 2 s",
        f"503 after +{max(late):.2f} s; {false} too early; {len(kills)} killed, silent after {silent:.3f} s, gone and "
        f"free after {gone:.3f} s",
        max(late) <= 1.0 and false == 0 and silent <= 1.0 and gone <= 2.0,
    )


def _kill(mode: str) -> tuple[float, float]:
    """Return after how many seconds nobody answered for it, and after how many its processes and its port were free."""
    service = Service(mode)
    family = service.sidecars
    begun = time.monotonic()
    os.kill(service.pid, signal.SIGKILL)
    while asyncio.run(probe(service.port, 0.0)).status == 200 and time.monotonic() - begun < 10:
        time.sleep(0.001)
    silent = time.monotonic() - begun
    while (any(map(lives, family)) or not _free(service.port)) and time.monotonic() - begun < 10:
        time.sleep(0.001)
    gone = time.monotonic() - begun
    service.kill()
    return silent, gone


def _free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


class Crowd:
    """Slow clients, each of which comes again when it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.held: list[float] = []
        """Seconds for which each was held."""

    async def stay(self, seconds: float) -> None:
        """Be slow for as long."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._slow(until) for _ in range(SLOW)))

    async def _slow(self, until: float) -> None:
        while time.monotonic() < until:
            with suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                begun = time.monotonic()
                try:
                    await self._drip(reader, writer)
                    self.held.append(time.monotonic() - begun)
                finally:
                    writer.close()
            await asyncio.sleep(0.5)

    async def _drip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a byte of a header now and then, until the other side has had enough."""
        writer.write(b"GET /livez HTTP/1.1\r\nx-slow: ")
        closed = asyncio.ensure_future(reader.read())
        for _ in range(30):
            done, _ = await asyncio.wait((closed,), timeout=1.0)
            if done:
                with suppress(OSError):
                    closed.result()
                return
            writer.write(b"x")
        closed.cancel()


CROWD: Final = """
import asyncio, sys
from tests.soak.liveness import Crowd

print("here they are", flush=True)
crowd = Crowd(int(sys.argv[1]))
asyncio.run(crowd.stay(float(sys.argv[2])))
print(max(crowd.held, default=float("inf")))
"""
"""In a process of its own: it is the server that is to be slow for nobody, not the prober."""


class Crowded(NamedTuple):
    """What became of the real probes, and of the process that answers them."""

    probed: list[Probed]
    held: float
    files: int
    connections: int
    grown: int


async def _crowded(service: Service, seconds: float) -> Crowded:
    await probes(service.port, 1.0)
    resident, sockets = resident_of(service.serving), sockets_of(service.serving)
    crowd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CROWD, str(service.port), str(seconds)), stdout=subprocess.PIPE
    )
    assert crowd.stdout is not None
    await crowd.stdout.readline()
    probing = asyncio.ensure_future(probes(service.port, seconds, rate=10))
    files = connections = grown = 0
    while not probing.done():
        await asyncio.sleep(0.2)
        files = max(files, len(os.listdir(f"/proc/{service.serving}/fd")))
        connections = max(connections, sockets_of(service.serving) - sockets)
        grown = max(grown, resident_of(service.serving) - resident)
    held = float(await crowd.stdout.readline())
    await crowd.wait()
    return Crowded(await probing, held, files, connections, grown)


def resident_of(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:")
    return found


def _slowhttptest(service: Service, seconds: float) -> list[Probed]:
    """Real probes among the slow clients of slowhttptest."""
    url = f"http://127.0.0.1:{service.port}/livez"
    options = ["-c", str(SLOW), "-H", "-i", "2", "-r", "500", "-x", "24", "-p", "3", "-l", str(round(seconds))]
    crowd = subprocess.Popen(["slowhttptest", *options, "-u", url], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        return asyncio.run(probes(service.port, seconds, rate=10))
    finally:
        crowd.kill()
        crowd.wait()


def _refused(port: int, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as client:
        client.sendall(request)
        return int(client.makefile("rb").readline().split()[1])


def gate_S4(scale: float) -> Figure:
    """Slow clients: a real probe gets in among 500 of them, and none of them stays."""
    seconds = max(60 * scale, 7.0)
    crowded: list[Crowded] = []
    among: list[Probed] = []
    statuses = set()
    for mode in ("thread", "process"):
        with running(mode) as service:
            crowded.append(asyncio.run(_crowded(service, seconds)))
            if shutil.which("slowhttptest"):
                among += _slowhttptest(service, seconds)
            statuses.add(_refused(service.port, b"GET /livez HTTP/1.1\r\nx: " + b"y" * 8200 + b"\r\n\r\n"))
            statuses.add(_refused(service.port, b"GET /" + b"y" * 4200 + b" HTTP/1.1\r\n\r\n"))
    probed = [*among, *(each for one in crowded for each in one.probed)]
    missed = sum(each.status != 200 or each.took > PATIENCE for each in probed)
    held, files = max(one.held for one in crowded), max(one.files for one in crowded)
    connections, grown = max(one.connections for one in crowded), max(one.grown for one in crowded)
    return Figure(
        "S4",
        f"{SLOW} slow: probe p99 <= 100 ms, 0 missed; closed <= 5 s; <= 128 connections, <= 160 files, RSS +<= 5 MiB",
        f"{len(probed)} probes, {missed} missed, p99 {p99(probed):.1f} ms; held <= {held:.2f} s; {connections} "
        f"connections, {files} files, RSS +{grown / MEBIBYTE:.1f} MiB; {sorted(statuses)}",
        missed == 0
        and p99(probed) <= 100
        and held <= 5.0
        and connections <= 128
        and files <= 160
        and grown <= 5 * MEBIBYTE
        and statuses == {414, 431},
    )
