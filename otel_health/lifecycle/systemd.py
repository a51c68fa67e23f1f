"""Telling systemd: ready, alive, stopping, and in a few words how things stand (see sd_notify(3))."""

import asyncio
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from otel_health.check import LIVEZ, READYZ, require_seconds
from otel_health.checker import Checker
from otel_health.lifecycle.drain import Drain
from otel_health.report import HealthReport, Status

LOOK_SECONDS: Final = 1.0
"""How often, at least, the state is looked at: a verdict that expires tells nobody."""

PINGS: Final = 4
"""Pings in the time that systemd waits for one. It asks for two: the others are for a loop that is busy."""

EXTENSION_SECONDS: Final = 15.0
"""By how much a start is extended at a time, and three times as often."""

STOP_SECONDS: Final = 5.0
"""What ending may take beside the drain."""

MAX_STATUS: Final = 160
"""Characters of `STATUS=`, which is for the one line of `systemctl status`."""


class Systemd:
    """Tells systemd of a `Type=notify` service what the probes tell others.

    `READY=1` when readyz first passes, `WATCHDOG=1` while the event loop turns and livez passes, `STOPPING=1` when the
    drain begins, `STATUS=` with the names of the components that are not up. Without systemd it does nothing. Enter it
    after the drain; it takes the variables that systemd has set out of the environment, so that no child speaks for
    this process.

    Args:
        checker: Whose state it tells.
        drain: Whose beginning is told as `STOPPING=1`; without one, leaving is.
        start_within: Seconds for which a start that takes its time is extended, beyond `TimeoutStartSec=`.

    Raises:
        ValueError: `start_within` is no positive, finite number of seconds.

    Example:
        >>> async with checker, drain, Systemd(checker, drain=drain):
        ...     await serve()
    """

    def __init__(self, checker: Checker, *, drain: Drain | None = None, start_within: float = 600.0) -> None:
        require_seconds("Systemd", "start_within", start_within)
        self._checker = checker
        self._drain = drain
        self._start_within = start_within
        self._address: str | None = None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._watchdog: float | None = None
        self._entered_at = self._pinged_at = self._extended_at = float("-inf")
        self._ready = False
        self._stopping = False
        self._status = ""
        if drain is not None:
            drain.hook(self._stop)

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this Systemd is entered already; use one for each process")
        self._loop = asyncio.get_running_loop()
        if "NOTIFY_SOCKET" in os.environ:  # Taken away at the first entry, and kept for the next.
            self._address = _address(os.environ.pop("NOTIFY_SOCKET"))
            self._watchdog = _watchdog(os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", ""))
        if self._address is None:
            return self
        self._entered_at = self._checker.now()
        self._pinged_at = self._extended_at = float("-inf")
        self._ready = self._stopping = False
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._unsubscribe = self._checker.subscribe(lambda _: self._tell())
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unsubscribe()
        await self._stop()
        if self._socket is not None:
            self._socket.close()
        self._timer = self._socket = self._loop = None

    def _look(self) -> None:
        """Tell what there is to tell, and look again in time."""
        assert self._loop is not None
        every = LOOK_SECONDS if self._watchdog is None else min(self._watchdog / PINGS, LOOK_SECONDS)
        self._timer = self._loop.call_later(every, self._look)
        self._tell()

    def _tell(self) -> None:
        """Send what has changed, and what is due; what could not be sent is sent the next time."""
        now = self._checker.now()
        report = self._checker.report(READYZ)
        lines = []
        ready = self._ready or report.status.up
        if ready and not self._ready:
            lines.append("READY=1")
        leaving = self._stopping or (self._drain is not None and self._drain.is_draining)
        status = "draining" if leaving else in_words(report, ready=ready)
        if status != self._status:
            lines.append(f"STATUS={status}")
        pings = self._watchdog is not None and now - self._pinged_at >= self._watchdog / PINGS * 0.9
        pings = pings and self._checker.report(LIVEZ).status.up
        if pings:
            lines.append("WATCHDOG=1")
        extends = not ready and not self._stopping and self._extends(now)
        if extends:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")
        if lines and self._send(lines):
            self._ready, self._status = ready, status
            self._pinged_at = now if pings else self._pinged_at
            self._extended_at = now if extends else self._extended_at

    def _extends(self, now: float) -> bool:
        return now - self._extended_at >= EXTENSION_SECONDS / 3 and now - self._entered_at < self._start_within

    async def _stop(self) -> None:
        """Say, once, that the service is on its way out."""
        if self._stopping or self._socket is None:
            return
        self._stopping = True
        takes = STOP_SECONDS if self._drain is None else STOP_SECONDS + self._drain.delay + self._drain.cap
        self._status = "draining"
        self._send(["STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={int(takes * 1e6)}"])

    def _send(self, lines: list[str]) -> bool:
        """Send one datagram; False where nobody takes it."""
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:  # Full, or gone: telling must hold up nothing.
            return False
        return True


def in_words(report: HealthReport, *, ready: bool) -> str:
    """Return one line for an operator: component names, and never a message.

    Args:
        report: What readyz says.
        ready: Whether the service has ever been ready.
    """
    if report.status is Status.PASS:
        return "ready"
    names = [name for name, state in report.components.items() if state.status is report.status]
    # One that is not critical fails, and its probe warns.
    names = names or [name for name, state in report.components.items() if state.status is not Status.PASS]
    head = "ready, degraded" if report.status.up else "not ready" if ready else "starting, waiting for"
    shown: list[str] = []
    room = MAX_STATUS - len(f"{head}:  and {len(names)} more")
    for name in names:
        room -= len(name) + len(", ")
        if room < 0:
            return f"{head}: {', '.join(shown)} and {len(names) - len(shown)} more"
        shown.append(name)
    return f"{head}: {', '.join(shown)}"


def _address(given: str) -> str | None:
    """The address of systemd's socket; None where there is none that we could reach."""
    if given.startswith("@"):
        return f"\0{given[1:]}"
    return given if given.startswith("/") else None


def _watchdog(microseconds: str, pid: str) -> float | None:
    """Seconds in which systemd wants to hear from this process; None where it wants nothing of it."""
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None
