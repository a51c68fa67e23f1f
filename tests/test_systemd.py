"""Telling systemd, over a real datagram socket."""

import asyncio
import itertools
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_health import Checker
from otel_health.lifecycle import Drain, Systemd
from otel_health.lifecycle.systemd import MAX_STATUS, in_words
from tests.doubles import Switch, eventually, failing, passing
from tests.virtual import now, virtual_checker

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """Stands where systemd would: a socket, and what has come in."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """The datagrams since the last call, each as its lines."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def lines(self) -> list[str]:
        """The lines since the last call."""
        return [line for datagram in self.heard() for line in datagram]

    async def hears(self, seconds: float) -> list[str]:
        """The lines of so many seconds; a socket that is not read is soon full."""
        found = self.lines()
        until = now() + seconds
        while now() < until:
            await asyncio.sleep(0.1)
            found += self.lines()
        return found

    def close(self) -> None:
        """Go away."""
        self._socket.close()


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Keep the tests' own environment."""
    kept = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    yield
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(kept)


@contextmanager
def managing(address: str | None = None, **variables: str) -> Iterator[Manager]:
    """A manager that this process was started by."""
    with tempfile.TemporaryDirectory() as directory:
        given = address or str(Path(directory) / "notify")
        os.environ["NOTIFY_SOCKET"] = given
        os.environ.update(variables)
        manager = Manager(f"\0{given[1:]}" if given.startswith("@") else given)
        try:
            yield manager
        finally:
            manager.close()


@pytest.mark.parametrize("address", [None, f"@otel_health-test-{os.getpid()}"], ids=["path", "abstract"])
@pytest.mark.virtual_time
async def test_it_says_ready_when_readyz_first_passes(address: str | None) -> None:
    """Not before, and only once; the status follows."""
    switch = Switch()
    switch.error = ConnectionError("refused by postgresql://orders:hunter2@db")
    checker = virtual_checker(interval=1.0)
    checker.add("postgres", switch)
    checker.add("cache", failing(), critical=False)
    with managing(address) as manager:
        async with checker, Systemd(checker):
            await asyncio.sleep(20)
            said = manager.lines()
            assert "READY=1" not in said
            assert said[0] == "STATUS=starting, waiting for: postgres, cache"
            assert set(said[1:]) == {"EXTEND_TIMEOUT_USEC=15000000"}
            assert 4 <= len(said) - 1 <= 6
            switch.error = None
            await asyncio.sleep(5)
            assert manager.lines() == ["READY=1", "STATUS=ready, degraded: cache"]
            switch.error = ConnectionError("refused")
            await asyncio.sleep(5)
            assert manager.lines() == ["STATUS=not ready: postgres, cache"]
        assert manager.lines() == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=5000000"]


@pytest.mark.virtual_time
async def test_a_start_is_not_extended_for_ever() -> None:
    """One that never comes to an end is systemd's to end."""
    checker = virtual_checker()
    checker.gate("migrations")
    with managing() as manager:
        async with checker, Systemd(checker, start_within=60):
            assert len(await manager.hears(59)) > 10
            assert len(await manager.hears(100)) <= 1


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.0, 60.0])
@pytest.mark.virtual_time
async def test_the_watchdog_hears_twice_in_its_time(seconds: float) -> None:
    """At most half of WATCHDOG_USEC apart."""
    checker = virtual_checker()
    pings: list[float] = []
    with managing(WATCHDOG_USEC=str(int(seconds * 1e6)), WATCHDOG_PID=str(os.getpid())) as manager:
        async with checker, Systemd(checker):
            begun = now()
            while now() < begun + 10 * seconds:
                if "WATCHDOG=1" in manager.lines():
                    pings.append(now())
                await asyncio.sleep(seconds / 100)

    assert len(pings) >= 20
    assert max(after - before for before, after in itertools.pairwise(pings)) <= seconds / 2


async def test_a_loop_that_is_blocked_says_nothing() -> None:
    """Not even by way of another thread."""
    checker = Checker()
    heard: list[float] = []
    stopped = threading.Event()
    with managing(WATCHDOG_USEC="100000") as manager:

        def listen() -> None:
            while not stopped.is_set():
                heard.extend(time.monotonic() for line in manager.lines() if line == "WATCHDOG=1")
                time.sleep(0.001)

        thread = threading.Thread(target=listen)
        thread.start()
        async with checker, Systemd(checker):
            await eventually(lambda: len(heard) > 3)
            time.sleep(0.05)  # noqa: ASYNC251 - the block itself.
            begun = time.monotonic()
            time.sleep(0.5)  # noqa: ASYNC251 - as above.
            ended = time.monotonic()
            count = len(heard)
            await eventually(lambda: len(heard) > count)
        stopped.set()
        thread.join()

    assert [at for at in heard if begun < at < ended] == []


@pytest.mark.virtual_time
async def test_a_process_that_is_not_alive_says_nothing() -> None:
    """The watchdog hears of livez, so that systemd restarts what a restart may mend; never of a dependency."""
    checker = virtual_checker()
    checker.add("postgres", failing())
    wedged = checker.gate("wedged", ready=True, probes={"livez"})
    with managing(WATCHDOG_USEC="1000000") as manager:
        async with checker, Systemd(checker):
            assert (await manager.hears(5)).count("WATCHDOG=1") >= 10
            wedged.close()
            assert "WATCHDOG=1" not in await manager.hears(5)
            wedged.open()
            assert (await manager.hears(5)).count("WATCHDOG=1") >= 10


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_PID": str(os.getpid())},
    ],
    ids=["of another process", "ill-formed", "off", "not wanted"],
)
@pytest.mark.virtual_time
async def test_a_watchdog_that_is_not_ours_is_not_fed(variables: dict[str, str]) -> None:
    """A parent's watchdog is fed by the parent, or not at all."""
    checker = virtual_checker()
    with managing(**variables) as manager:
        async with checker, Systemd(checker):
            assert await manager.hears(10) == ["READY=1", "STATUS=ready"]


@pytest.mark.virtual_time
async def test_no_child_inherits_the_right_to_speak() -> None:
    """The variables are gone from the environment, with systemd and without."""
    checker = virtual_checker()
    with managing(WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid())):
        async with Systemd(checker):
            assert not set(VARIABLES) & set(os.environ)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/notify"])
@pytest.mark.virtual_time
async def test_without_systemd_it_does_nothing(address: str) -> None:
    """No socket, no timer, no listener."""
    checker = virtual_checker()
    if address:
        os.environ["NOTIFY_SOCKET"] = address
    before = len(os.listdir("/proc/self/fd"))
    async with Systemd(checker):
        assert len(os.listdir("/proc/self/fd")) == before
        assert not checker.engine._listeners  # noqa: SLF001 - there is no other way to see that nobody listens.


@pytest.mark.virtual_time
async def test_it_speaks_again_when_it_is_entered_again() -> None:
    """What systemd has said once holds for as long as the process lives."""
    checker = virtual_checker()
    systemd = Systemd(checker)
    with managing(WATCHDOG_USEC="1000000") as manager:
        for _ in range(2):
            async with checker, systemd:
                said = await manager.hears(2)
            assert "READY=1" in said
            assert "WATCHDOG=1" in said


@pytest.mark.virtual_time
async def test_the_beginning_of_the_drain_is_told() -> None:
    """With the time that it may take; the watchdog is fed on."""
    checker = virtual_checker()
    drain = Drain(checker, delay=10, cap=15)
    with managing(WATCHDOG_USEC="1000000") as manager:
        async with checker, drain, Systemd(checker, drain=drain):
            await asyncio.sleep(1)
            manager.lines()
            drain.begin()
            said = await manager.hears(5)

    assert set(said) == {"WATCHDOG=1", "STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=30000000"}
    assert said.count("WATCHDOG=1") >= 10


@pytest.mark.virtual_time
async def test_a_socket_that_is_full_holds_up_nobody() -> None:
    """What could not be said is said as soon as it can be."""
    checker = virtual_checker(interval=1.0)
    checker.add("postgres", passing())
    with managing() as manager:
        clogging = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        clogging.setblocking(False)
        with pytest.raises(BlockingIOError):  # noqa: PT012 - the loop is the statement.
            while True:
                clogging.sendto(b"clog", os.environ["NOTIFY_SOCKET"])
        async with checker, Systemd(checker):
            await asyncio.sleep(10)
            assert set(manager.lines()) == {"clog"}
            await asyncio.sleep(2)
            assert manager.lines() == ["READY=1", "STATUS=ready"]
        clogging.close()


@pytest.mark.virtual_time
async def test_a_socket_that_is_gone_holds_up_nobody() -> None:
    """A service outlives a manager that was restarted."""
    checker = virtual_checker()
    with managing() as manager:
        manager.close()
        async with checker, Systemd(checker):
            await asyncio.sleep(10)


async def test_the_status_is_one_short_line() -> None:
    """Names, as many as fit, and how many more there are; never a message."""
    checker = Checker(trace="never")
    for number in range(100):
        checker.add(f"component-{number:02}", failing())
    status = in_words(await checker.run(), ready=True)

    assert status.startswith("not ready: component-00, component-01")
    assert len(status) <= MAX_STATUS
    shown = status.count("component-")
    assert status.endswith(f" and {100 - shown} more")
    assert in_words(checker.report(), ready=False).endswith(" more")
    assert in_words(checker.report(), ready=False).startswith("starting, waiting for: component-00")


@pytest.mark.parametrize("seconds", [0, True, "60", float("nan")])
def test_what_makes_no_sense_is_refused(seconds: Any) -> None:
    """Where it is written."""
    with pytest.raises(ValueError, match="Systemd: start_within="):
        Systemd(Checker(), start_within=seconds)
