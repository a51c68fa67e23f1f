"""Services in processes of their own: started, asked, told to end, and waited for."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.servers import free_port

ROOT: Final = Path(__file__).parent.parent
PATIENCE: Final = 30.0
"""Seconds that a service may take to start or to end, on a busy machine."""

DRAINED: Final = '''
"""A service that drains, as one would write it; DELAY and CAP come from the environment."""
import asyncio, os, time
from pathlib import Path
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from otel_health import Checker
from otel_health.lifecycle import Drain

def say(word):
    with open(os.environ["SAID"], "a") as said:
        said.write(f"{time.monotonic()} {word}\\\\n")

checker = Checker(interval=0.1)
checker.add("database", lambda: not os.environ.get("NEVER_READY"), probes={"readyz"})
checker.subscribe(lambda told: told.component == "database" and told.after.up and say("ready"))
drain = Drain(checker, delay=float(os.environ["DELAY"]), cap=float(os.environ["CAP"]))

@drain.hook
def withdraw():
    say("withdrawn")

@drain.hook
async def withdraw_slowly():
    say("withdrawing")
    await asyncio.sleep(0.1)
    say("slowly withdrawn")

async def hello(request):
    await asyncio.sleep(float(request.query_params.get("seconds", "0")))
    return PlainTextResponse("hello")

async def endless():
    while True:
        yield b"data: tick\\\\n\\\\n"
        await asyncio.sleep(0.05)

async def events(_):
    return StreamingResponse(endless(), media_type="text/event-stream")

class Starting:
    """Takes its time to start, after the drain was entered."""
    async def __aenter__(self):
        say("starting")
        await asyncio.sleep(float(os.environ.get("STARTS_FOR", "0")))
    async def __aexit__(self, *_):
        say("ended")

from contextlib import asynccontextmanager
@asynccontextmanager
async def lifespan(app):
    async with drain, checker, Starting():
        yield

app = Starlette(
    routes=[Route("/hello", hello), Route("/events", events), *checker.routes()],
    lifespan=lifespan,
    middleware=[Middleware(drain.middleware)],
)
'''.replace("\\\\n", "\\n")


class Service:
    """A service in a process of its own, which answers on a port of loopback."""

    def __init__(self, command: list[str], port: int, directory: Path, environment: dict[str, str]) -> None:
        self.port = port
        self.said_in = directory / "said"
        self._log = (directory / "log").open("ab+")
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
                "SAID": str(self.said_in),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        """All that it has printed."""
        self._log.seek(0)
        return self._log.read().decode()

    @property
    def said(self) -> dict[str, float]:
        """What it has said, and when it first did."""
        words: dict[str, float] = {}
        if self.said_in.exists():
            for line in self.said_in.read_text().splitlines():
                at, _, word = line.partition(" ")
                words.setdefault(word, float(at))
        return words

    def get(self, path: str) -> int | None:
        """The status of an answer over a connection of its own; None where there is none."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is kept alive."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    def waits_for(self, path: str, status: int | None, seconds: float = PATIENCE) -> float:
        """Wait until it answers so; return when it did."""
        deadline = time.monotonic() + seconds
        while self.get(path) != status:
            assert time.monotonic() < deadline, f"{path} is {self.get(path)}, not {status}:\n{self.log}"
            time.sleep(0.005)
        return time.monotonic()

    def hears(self, word: str, times: int = 1) -> float:
        """Wait until it, or so many of its workers, have said so; return when the first did."""
        deadline = time.monotonic() + PATIENCE
        while not self.said_in.exists() or self.said_in.read_text().count(f" {word}\n") < times:
            assert time.monotonic() < deadline, f"it did not say {word}:\n{self.log}"
            time.sleep(0.005)
        return self.said[word]

    def signal(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send it a signal; return when."""
        self.process.send_signal(number)
        return time.monotonic()

    def ends(self, seconds: float = PATIENCE) -> float:
        """Wait until it has ended; return when it did."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.log}") from None
        return time.monotonic()

    def close(self) -> None:
        """End it and its children, whatever it does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def command_of(server: str, port: int) -> list[str]:
    """How to start the module `service` under a server."""
    uvicorn = ["-m", "uvicorn", "service:app", "--port", str(port), "--no-access-log"]
    gunicorn = ["-m", "gunicorn", "service:app", "-b", f"127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker"]
    return {
        "uvicorn": [*uvicorn, "--loop", "asyncio"],
        "uvloop": [*uvicorn, "--loop", "uvloop"],
        "workers": [*uvicorn, "--workers", "2"],
        "reload": [*uvicorn, "--reload"],
        "gunicorn": [*gunicorn, "--workers", "2", "--graceful-timeout", "25"],
        "gunicorn-4": [*gunicorn, "--workers", "4"],
        "gunicorn-4-preload": [*gunicorn, "--workers", "4", "--preload"],
    }[server]


@contextmanager
def serving(
    directory: Path, server: str = "uvicorn", source: str = DRAINED, port: int = 0, **environment: str
) -> Iterator[Service]:
    """Run the source under a server, in a process of its own."""
    (directory / "service.py").write_text(source)
    port = port or free_port()
    service = Service(command_of(server, port), port, directory, {"DELAY": "1", "CAP": "6", **environment})
    try:
        yield service
    finally:
        service.close()


@contextmanager
def running(directory: Path, source: str, **environment: str) -> Iterator[Service]:
    """Run a program that serves nobody, in a process of its own."""
    (directory / "program.py").write_text(source)
    service = Service(["program.py"], 0, directory, environment)
    try:
        yield service
    finally:
        service.close()
