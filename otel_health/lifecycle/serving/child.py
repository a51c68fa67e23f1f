"""The process that serves a slate, as its parent sees it."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import otel_health
from otel_health.lifecycle.serving.sidecar import READY
from otel_health.lifecycle.serving.slate import Slate

START_SECONDS: Final = 10.0
"""How long it may take until it answers."""

STOP_SECONDS: Final = 1.0
"""How long it may take to end when it is told to, before it is killed."""

# The packages stand there empty: their own faces would load OpenTelemetry and Starlette, ten times the memory.
_BOOT: Final = """
import sys, types
root, *numbers = sys.argv[1:]
for package in ("", ".http", ".lifecycle", ".lifecycle.serving"):
    module = sys.modules["otel_health" + package] = types.ModuleType("otel_health" + package)
    module.__path__ = [root + package.replace(".", "/")]
from otel_health.lifecycle.serving.sidecar import main
main(*map(int, numbers))
"""


def require_interpreter() -> None:
    """Refuse what cannot start a second Python.

    Raises:
        RuntimeError: There is no POSIX system, or no interpreter beside this program.
    """
    if sys.platform == "win32":
        raise RuntimeError("LivenessServer: mode='process' needs a POSIX system; use mode='thread'")
    if not sys.executable or getattr(sys, "frozen", False):
        raise RuntimeError(
            "LivenessServer: mode='process' starts a second Python, and this program is no interpreter; "
            "use mode='thread'"
        )


class Child:
    """One such process; it inherits the listening socket, the slate and a socket to us, and nothing else.

    It has to be started by a thread that lives as long as it may: the kernel ends it with that thread.
    """

    def __init__(self, listening: socket.socket, slate: Slate, parent: int) -> None:
        self.channel, theirs = socket.socketpair()
        inherited = (listening.fileno(), slate.fd, theirs.fileno())
        command = [sys.executable, "-I", "-S", "-c", _BOOT, str(Path(otel_health.__file__).parent)]
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, (*inherited, parent))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                pass_fds=inherited,
                start_new_session=True,
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def starts(self) -> bool:
        """Wait until it answers; False if it does not."""
        self.channel.settimeout(START_SECONDS)
        try:
            return self.channel.recv(len(READY)) == READY
        except OSError:
            return False

    def ended(self) -> int | None:
        """Return how it ended; None while it lives."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, and wait for that."""
        self.channel.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
