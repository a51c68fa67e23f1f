"""Servers in processes of their own, what they burn, and who asks them.

Requests a second depend on what else the machine does, so what is measured is the processor time that the server
takes for each request: one worker's rate at saturation is the inverse of it.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from tests.servers import children, free_port

CONNECTIONS: Final = 16
PATIENCE: Final = 30.0
"""Seconds that a server may take to start, or to answer."""

LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def apart() -> int | None:
    """Keep this process, which asks, to one core; tells which other one the servers may have, if there is one.

    What moves from core to core leaves its caches behind, and ratios vary by twice as much.
    """
    asking, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {asking})
    return others[0] if others else None


@dataclass(frozen=True)
class Server:
    """One that listens."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """The processor time it has taken, with its workers: clock_getcpuclockid(3), which Python does not have."""
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in (self.process.pid, *self.workers))

    @cached_property
    def workers(self) -> list[int]:
        """The processes that it has started, once it listens."""
        return children(self.process.pid)

    def told(self) -> bytes:
        """What it has written to standard output so far."""
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 1 << 16)


@contextmanager
def serving(
    kinds: Iterable[str], number: int, check: str = "nothing", core: int | None = None
) -> Iterator[dict[str, Server]]:
    """Run one server of each kind, all started at once, until each of them listens."""
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(_started(kind, number, check, core)) for kind in kinds}
        for kind, server in servers.items():
            deadline = time.monotonic() + PATIENCE
            while not _listens(server.port):
                if server.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{kind} with {number} components does not start")
                time.sleep(0.05)
        yield servers


@contextmanager
def _started(kind: str, number: int, check: str, core: int | None) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.served", kind, str(number), str(port), check]
    # What a check that hangs makes them log is no news.
    silent = subprocess.DEVNULL if check != "nothing" else None
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=silent) as process:
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            yield Server(process, port)
        finally:
            process.kill()  # Some of them would wait for a check that never ends.


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Client:
    """Asks one server for one thing over several connections: kept open, or one for each request as kubelet does.

    Each connection has one request under way; they are sent together, so that the server never waits for the next.
    Connections are made anew for each `with`, because servers close those that were idle for a while.
    """

    def __init__(
        self, server: Server, target: str, *, keep: bool, connections: int = CONNECTIONS, patience: float = PATIENCE
    ) -> None:
        lines = [f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "User-Agent: kube-probe/1.31"]
        lines += ["Accept: */*"] if keep else ["Accept: */*", "Connection: close"]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._server = server
        self._keep = keep
        self._count = connections
        self._patience = patience
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()
        self._open = []

    def ask(self, status: int | None = 200) -> None:
        """Send one request on each connection and read every answer to its end."""
        if not self._open:
            address = ("127.0.0.1", self._server.port)
            self._open = [socket.create_connection(address, self._patience) for _ in range(self._count)]
        for connection in self._open:
            connection.sendall(self._request)
        for connection in self._open:
            read_answer(connection, status)
        if not self._keep:
            self.__exit__()

    def wait_for_success(self) -> None:
        """Ask until the answer is 200: the first round of its checks is over."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with self, suppress(RuntimeError):
                return self.ask()
            time.sleep(0.1)
        raise RuntimeError(f"{self._request!r} is not answered with 200")

    def cpu_microseconds(self, seconds: float) -> float:
        """The server's processor time for one request, over so many seconds."""
        with self:
            self.ask()
            requests, begun, burnt = 0, time.monotonic(), self._server.cpu_seconds()
            while not requests or time.monotonic() - begun < seconds:
                self.ask()
                requests += self._count
            return (self._server.cpu_seconds() - burnt) / requests * 1e6


def read_answer(connection: socket.socket, status: int | None = 200) -> bytes:
    """Read one answer to its end, whether it has a length or comes in chunks; gives what was read last.

    Raises:
        RuntimeError: It has another status than is expected, if one is.
    """
    answer = _received(connection)
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _received(connection)
    if status is not None and not answer.startswith(b"HTTP/1.1 %d " % status):
        raise RuntimeError(f"expected {status}, not {answer[:200]!r}")
    length = LENGTH.search(answer, 0, end + 2)
    if length is not None:
        missing = end + 4 + int(length[1]) - len(answer)
        while missing > 0:
            answer = _received(connection)
            missing -= len(answer)
    else:
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer = answer[-6:] + _received(connection)
    return answer


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 18)
    if not received:
        raise RuntimeError("the server closed the connection before its answer's end")
    return received
