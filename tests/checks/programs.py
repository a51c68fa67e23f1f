"""Servers written in Python, of a test's own: they may be killed, frozen and started again."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_health import Checker, CheckFunc, Status
from tests.doubles import eventually
from tests.servers import OwnServer, free_port


class Program(OwnServer):
    """A server that runs as ourselves, since others may not enter our virtual environment."""

    def start(self) -> None:
        """Start it, and start it again after `kill`; it is not ready at once."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


@contextmanager
def python(module: str, *arguments: str) -> Iterator[Program]:
    """Run a module as a server at a port that is its first argument."""
    port = free_port()
    command = [sys.executable, "-m", module, str(port), *arguments]
    with running(command, port) as server:
        yield server


@contextmanager
def running(command: list[str], port: int, ready: str | None = None) -> Iterator[Program]:
    """Run a server until the test ends; `ready` is a program of Python's that succeeds once it serves."""
    asks = ready or f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        server = Program(command, port, Path(directory), [sys.executable, "-c", asks])
        try:
            server.start()
            server.wait_until_ready()
            yield server
        finally:
            server.kill()


async def goes_and_comes_back(check: CheckFunc, server: OwnServer, *, frozen: bool = True) -> None:
    """Hold a check of a server that is killed and started again, then frozen and let go, to what it should say."""
    silent = logging.Logger("silent", logging.CRITICAL)
    checker = Checker(timeout=0.5, interval=0.2, trace="never", logger=silent)
    checker.add("it", check)
    async with checker:
        await eventually(lambda: checker.report().status is Status.PASS, seconds=10)
        server.kill()
        await eventually(lambda: checker.report().status is Status.FAIL)
        server.start()
        await eventually(lambda: checker.report().status is Status.PASS, seconds=10)
        if frozen:
            server.pause()
            await eventually(lambda: checker.report().status is Status.FAIL)
            server.resume()
            await eventually(lambda: checker.report().status is Status.PASS, seconds=10)


def open_files() -> int:
    """How many files and sockets we hold."""
    return len(os.listdir("/proc/self/fd"))
