"""Probes on a port of their own: over real sockets, from a thread and from a process, whatever the loop does."""

import asyncio
import logging
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from httpx2 import ASGITransport, AsyncClient, Client, HTTPError, Response

from otel_health import Checker, Degraded, Status
from otel_health.lifecycle import LivenessServer, LoopMonitor
from otel_health.lifecycle.liveness_server import MODES, Mode
from otel_health.lifecycle.serving import by_process, http1, listener
from otel_health.lifecycle.serving.child import Child
from otel_health.lifecycle.serving.slate import SIDE_BYTES, Slate, Written
from otel_health.prometheus import PrometheusExporter
from tests.conftest import library_threads
from tests.doubles import eventually, failing, passing
from tests.servers import children, free_port, lives

LOCAL: Final = "127.0.0.1"
BOTH: Final = pytest.mark.parametrize("mode", ["thread", "process"])


@asynccontextmanager
async def serving(checker: Checker, mode: Mode = "thread", **options: Any) -> AsyncIterator[LivenessServer]:
    """An open Checker with its server on a free port of loopback."""
    options = {"port": 0, "host": LOCAL, **options}
    async with checker, LivenessServer(checker, mode=mode, **options) as server:
        yield server


def get(port: int, path: str = "/livez", method: str = "GET", **headers: str) -> Response:
    """One request on a connection of its own."""
    with Client(timeout=10) as client:
        return client.request(method, f"http://{LOCAL}:{port}{path}", headers=headers)


async def asked(port: int, path: str = "/livez", method: str = "GET", **headers: str) -> Response:
    """The same from a thread, so that the loop lives meanwhile."""
    return await asyncio.to_thread(get, port, path, method, **headers)


async def raw(port: int, request: bytes) -> bytes:
    """Send these bytes, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection(LOCAL, port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def degraded() -> None:
    """A check that warns."""
    raise Degraded("hot")


@BOTH
async def test_it_answers_what_the_routes_answer(mode: Mode) -> None:
    """To the byte, status and headers included, in each format and for GET and HEAD."""
    checker = Checker()
    checker.add("heat", degraded, local=True, probes={"livez", "readyz"})
    checker.add("postgres", failing())
    async with (
        serving(checker, mode, probes={"livez", "readyz"}) as server,
        AsyncClient(transport=ASGITransport(checker.asgi()), base_url="http://service") as routes,
    ):
        await eventually(lambda: checker.report("healthz").components["postgres"].status is Status.FAIL)
        await eventually(lambda: get(server.port, "/readyz").json()["output"] == "heat: degraded, postgres: failed")
        for path in ("/livez", "/livez/", "/readyz", "/readyz?verbose", "/livez?verbose=1"):
            for accept in ("*/*", "text/plain", "application/json"):
                for method in ("GET", "HEAD"):
                    own = await asked(server.port, path, method, accept=accept)
                    theirs = await routes.request(method, path, headers={"accept": accept})
                    assert (own.status_code, own.content) == (theirs.status_code, theirs.content), (path, accept)
                    assert own.headers == theirs.headers


@BOTH
async def test_it_has_no_page(mode: Mode) -> None:
    """A browser is answered with JSON, and told that it is: the status page is the service's own."""
    async with serving(Checker(), mode) as server:
        answer = await asked(server.port, accept="text/html")

    assert answer.headers["content-type"] == "application/health+json"
    assert answer.json()["status"] == "pass"


@BOTH
@pytest.mark.parametrize("details", ["status", "full"])
async def test_details_are_as_the_routes_have_them(mode: Mode, details: Any) -> None:
    """The verdict alone, or everything."""
    async with serving(Checker(service_id="orders"), mode, details=details) as server:
        body = (await asked(server.port)).json()
        if details == "status":
            assert body == {"status": "pass"}
        else:
            assert body["serviceId"] == "orders"
            assert body["checks"]["event-loop"][0]["observedUnit"] == "ms"


@BOTH
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/livez", 405),
        ("BREW", "/livez", 405),
        ("GET", "/readyz", 404),
        ("POST", "/readyz", 404),
        ("GET", "/livez/event-loop", 404),
        ("GET", "/metrics", 404),
        ("GET", "/", 404),
        ("GET", "/livez%2f", 404),
        ("GET", "/livez?exclude=event-loop", 400),
    ],
)
async def test_anything_else_is_refused(mode: Mode, method: str, path: str, status: int) -> None:
    """Fixed paths, two methods, no exclusion; nobody on the way may keep a refusal either."""
    async with serving(Checker(), mode) as server:
        response = await asked(server.port, path, method)

    assert response.status_code == status
    assert response.headers["cache-control"] == "no-store"
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 4096 + b" HTTP/1.1\r\n\r\n", 414),
        (b"G" * 100_000, 414),
        (b"GET /livez HTTP/1.1\r\nx: " + b"a" * 8192 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 431),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/2\r\n\r\n", 400),
        (b"GET  /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nnonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nx : y\r\n\r\n", 400),
        (b"\x00\xff\r\n\r\n", 400),
        (b"\r\n\r\nGET /livez HTTP/1.0\r\n\r\n", 200),
        (b"POST /livez HTTP/1.1\r\ncontent-length: 50000\r\n\r\n" + b"x" * 50_000, 405),
        (b"GET /livez HTTP/1.1\r\ncontent-length: 5\r\n\r\nGET /livez HTTP/1.1\r\n\r\n", 200),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(request_bytes: bytes, status: int) -> None:
    """With one answer, which arrives whole although the client has sent more than anybody read."""
    async with serving(Checker()) as server:
        answer = await raw(server.port, request_bytes)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in answer


async def test_a_connection_may_be_used_again() -> None:
    """One request after the other, or all at once, a hundred at most."""
    request = b"GET /livez HTTP/1.1\r\nhost: it\r\n\r\n"
    async with serving(Checker()) as server:
        answers = await raw(server.port, request * 150)

    assert answers.count(b"HTTP/1.1 200 OK") == listener.MAX_REQUESTS
    assert answers.count(b"connection: close") == 1


async def test_a_request_that_comes_in_pieces_is_answered() -> None:
    """Byte by byte, as long as it comes in time."""
    async with serving(Checker()) as server:
        reader, writer = await asyncio.open_connection(LOCAL, server.port)
        for byte in b"HEAD /livez HTTP/1.1\r\nconnection: close\r\n\r\n":
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.001)
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_slow_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is the request's: a byte now and then does not move it."""
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.3)
    async with serving(Checker()) as server:
        reader, writer = await asyncio.open_connection(LOCAL, server.port)
        silent_reader, silent_writer = await asyncio.open_connection(LOCAL, server.port)
        reading = asyncio.ensure_future(reader.read())
        while not reading.done():
            writer.write(b"G")
            await asyncio.sleep(0.02)
        assert (await reading).startswith(b"HTTP/1.1 408 ")
        assert await silent_reader.read() == b""
        writer.close()
        silent_writer.close()


async def test_a_probe_gets_in_among_slow_clients() -> None:
    """More of them than are let in: the one that has waited longest makes room."""
    async with serving(Checker()) as server:
        with ExitStack() as held:
            for _ in range(listener.MAX_CONNECTIONS + 50):
                slow = held.enter_context(socket.create_connection((LOCAL, server.port)))
                slow.send(b"GET /livez HTTP/1.1\r\nx")
            assert (await asked(server.port)).status_code == 200
            open_connections = server._serving._listener._connections  # type: ignore[union-attr]  # noqa: SLF001
            assert len(open_connections) <= listener.MAX_CONNECTIONS


async def test_clients_that_vanish_leave_nothing() -> None:
    """Reset, half-closed or gone before they were answered."""
    async with serving(Checker()) as server:
        assert (await asked(server.port)).status_code == 200
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            client = socket.create_connection((LOCAL, server.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.send(b"GET /livez HTTP/1.1\r\n\r\nGET")
            client.close()
        half = socket.create_connection((LOCAL, server.port))
        half.send(b"GET /livez HTTP/1.1\r\n\r\n")
        half.shutdown(socket.SHUT_WR)
        assert (await asyncio.to_thread(half.recv, 9999)).startswith(b"HTTP/1.1 200")
        half.close()
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert (await asked(server.port)).status_code == 200


@BOTH
async def test_it_answers_while_the_loop_is_stuck(mode: Mode) -> None:
    """200 until the loop counts as dead, 503 from then on, 200 when it is back."""
    checker = Checker()
    async with (
        checker,
        LoopMonitor(checker, stuck_after=1.0, warn_after=0.9),
        LivenessServer(checker, port=0, host=LOCAL, mode=mode) as server,
    ):
        seen: list[tuple[float, int]] = []
        begun = time.monotonic()

        def probe() -> None:
            while (at := time.monotonic() - begun) < 2.5:
                seen.append((at, get(server.port).status_code))

        prober = threading.Thread(target=probe)
        prober.start()
        time.sleep(2.6)  # noqa: ASYNC251 - the loop is stuck.
        prober.join()

        assert {status for at, status in seen if at < 0.9} == {200}
        assert {status for at, status in seen if at > 2.2} == {503}
        while (await asked(server.port)).status_code != 200:
            assert time.monotonic() - begun < 20


async def test_it_brings_a_monitor_where_there_is_none() -> None:
    """And takes it away again; where there is one, that one counts."""
    checker = Checker()
    async with checker:
        async with LivenessServer(checker, port=0, host=LOCAL):
            assert "event-loop" in checker
        assert "event-loop" not in checker
        async with LoopMonitor(checker):
            async with LivenessServer(checker, port=0, host=LOCAL):
                pass
            assert "event-loop" in checker


async def test_metrics_are_served_from_the_thread() -> None:
    """Also while the loop is stuck; those who want the same at once share a scrape."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    async with serving(checker, metrics=exporter) as server:
        text = get(server.port, "/metrics")  # Without a thread of the test's: the loop is stuck meanwhile.
        assert 'otel_health_check_up{component="event-loop"} 1.0' in text.text
        await asyncio.sleep(0.3)
        assert "otel_health_event_loop_lag_seconds_bucket" in (await asked(server.port, "/metrics")).text
        assert text.headers["cache-control"] == "no-store"
        head = await asked(server.port, "/metrics", "HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert (await asked(server.port, "/metrics", "POST")).status_code == 405
        zipped = await asked(server.port, "/metrics", **{"accept-encoding": "gzip"})
        assert zipped.headers["content-encoding"] == "gzip"
        assert "otel_health_check_up" in zipped.text
    exporter.shutdown()


async def test_a_scrape_that_hangs_holds_up_no_probe() -> None:
    """It is the exporter's thread that hangs; too many different ones are refused."""
    let_go = threading.Event()

    class Hanging:
        async def scraped(self, accept: str = "", *, zipped: bool = False) -> tuple[bytes, str]:
            await asyncio.to_thread(let_go.wait)
            return f"{accept} {zipped}\n".encode(), "text/plain"

    async with serving(Checker(), metrics=Hanging()) as server:
        plain = {"accept-encoding": "identity"}
        scrapes = [asyncio.ensure_future(asked(server.port, "/metrics", accept="a/b", **plain)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert (await asked(server.port)).status_code == 200
        others = [asyncio.ensure_future(asked(server.port, "/metrics", accept=f"a/{n}", **plain)) for n in range(4)]
        done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result().status_code for each in done] == [503]
        let_go.set()
        assert {(await scrape).text for scrape in scrapes} == {"a/b False\n"}
        await asyncio.gather(*others)


async def test_an_exporter_that_raises_is_unavailable() -> None:
    """And nothing else suffers."""

    class Raising:
        async def scraped(self, accept: str = "", *, zipped: bool = False) -> tuple[bytes, str]:
            raise SystemExit(accept, zipped)

    async with serving(Checker(), metrics=Raising()) as server:
        assert (await asked(server.port, "/metrics")).status_code == 503
        assert (await asked(server.port)).status_code == 200


@BOTH
async def test_closing_leaves_nothing(mode: Mode, threads: Callable[[], int]) -> None:
    """No thread, no process, no file, a port that is free; and it may be opened again."""
    checker = Checker()
    server = LivenessServer(checker, port=free_port(), host=LOCAL, mode=mode)
    assert threads() == 0
    async with checker:
        files, family = len(os.listdir("/proc/self/fd")), children(os.getpid())
        for _ in range(3):
            async with server:
                assert (await asked(server.port)).status_code == 200
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOCAL, server.port))
        assert children(os.getpid()) == family
        await eventually(lambda: not [t for t in library_threads() if "liveness" in t.name])
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)
    await eventually(lambda: threads() == 0)


@BOTH
async def test_a_server_that_cannot_start_leaves_nothing(mode: Mode) -> None:
    """The port is taken: the error says so, and what to do."""
    checker = Checker()
    async with serving(checker, mode) as first:
        files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(
            OSError, match=rf"cannot listen at 127.0.0.1:{first.port}: .*in use; give it a port that"
        ) as no:
            await LivenessServer(checker, port=first.port, host=LOCAL, mode=mode).__aenter__()
        assert no.value.errno is not None
        assert len(os.listdir("/proc/self/fd")) == files
        assert (await asked(first.port)).status_code == 200


async def test_a_process_that_does_not_start_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way out."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    checker = Checker()
    async with checker:
        with pytest.raises(RuntimeError, match=r"did not answer.*mode='thread'"):
            await LivenessServer(checker, port=0, host=LOCAL, mode="process").__aenter__()
        assert "event-loop" not in checker
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(RuntimeError, match="this program is no interpreter"):
            await LivenessServer(checker, port=0, host=LOCAL, mode="process").__aenter__()


async def test_what_makes_no_sense_is_refused() -> None:
    """With the way out, where it is written or at the start."""
    checker = Checker()
    exporter: Any = PrometheusExporter()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"port": -1}, "port=-1 must be"),
        ({"port": True}, "port=True must be"),
        ({"port": 1, "mode": "fork"}, "mode='fork' must be one of 'thread', 'process'"),
        ({"port": 1, "probes": "livez"}, "probes='livez' must be a set"),
        ({"port": 1, "probes": ()}, "must be a set"),
        ({"port": 1, "host": "example.org"}, "host='example.org' must be an address"),
        ({"port": 1, "details": "all"}, "details='all' must be one of"),
        ({"port": 1, "mode": "process", "metrics": exporter}, "mode='process' cannot serve them"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            LivenessServer(checker, **options)
    with pytest.raises(TypeError, match="pass a PrometheusExporter"):
        LivenessServer(checker, port=1, metrics=exporter.registry)
    server = LivenessServer(checker, port=0, host=LOCAL)
    with pytest.raises(RuntimeError, match="async with checker, LivenessServer"):
        await server.__aenter__()
    async with checker:
        with pytest.raises(ValueError, match="known: livez"):
            await LivenessServer(checker, port=0, probes={"shipz"}).__aenter__()
        with pytest.raises(OSError, match=r"use host='0\.0\.0\.0'"):
            await LivenessServer(checker, port=0, host="192.0.2.1").__aenter__()
        async with server:
            with pytest.raises(RuntimeError, match="already open"):
                await server.__aenter__()
    exporter.shutdown()


@pytest.mark.parametrize(("host", "warnings"), [("127.0.0.1", 1), ("::1", 1), ("localhost", 1), ("0.0.0.0", 0)])
async def test_a_host_that_kubelet_cannot_reach_is_warned_of(
    host: str, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a pod, and nowhere else."""
    checker = Checker()
    async with checker:
        async with LivenessServer(checker, port=0, host=host):
            pass
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        async with LivenessServer(checker, port=0, host=host):
            pass
    said = [line.getMessage() for line in caplog.records]
    assert sum("kubelet cannot reach it; use host='0.0.0.0'" in line for line in said) == warnings


@pytest.mark.parametrize(("host", "at"), [("::", LOCAL), ("::", "::1"), ("::1", "::1"), ("0.0.0.0", LOCAL)])
async def test_both_kinds_of_addresses(host: str, at: str) -> None:
    """All of IPv6 is all of IPv4 as well."""
    checker = Checker()
    async with checker, LivenessServer(checker, port=0, host=host) as server:
        with socket.create_connection((at, server.port)) as client:
            client.send(b"GET /livez HTTP/1.0\r\n\r\n")
            assert (await asyncio.to_thread(client.recv, 99)).startswith(b"HTTP/1.1 200 OK")


async def test_a_process_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """With one warning; who asks meanwhile waits a moment and is answered."""
    checker = Checker()
    async with serving(checker, "process") as server:
        (pid,) = sidecars()
        os.kill(pid, signal.SIGKILL)
        assert (await asked(server.port)).status_code == 200
        assert sidecars() != [pid]
    assert sum("another is started" in line.getMessage() for line in caplog.records) == 1


def sidecars(parent: int | None = None) -> list[int]:
    """The processes that answer for this one, or for another."""
    found = []
    for pid in children(parent or os.getpid()):
        with suppress(OSError):
            if b"sidecar" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def resident_kibibytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


async def test_the_process_holds_nothing_of_ours() -> None:
    """Its three descriptors, its selector and the standard streams; neither OpenTelemetry nor Starlette."""
    with socket.create_server((LOCAL, 0)) as ours:
        ours.set_inheritable(True)
        async with serving(Checker(), "process"):
            (pid,) = sidecars()
            sockets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert f"socket:[{os.fstat(ours.fileno()).st_ino}]" not in sockets
            assert len([name for name in sockets if name.startswith("socket:")]) == 2
            assert resident_kibibytes(pid) < 30_000


SERVICE: Final = """
import asyncio, os, sys, time
from otel_health import Checker
from otel_health.lifecycle import LivenessServer

async def main():
    checker = Checker()
    async with checker, LivenessServer(checker, port=0, host="127.0.0.1", mode=sys.argv[1]) as server:
        print(server.port, flush=True)
        exec(sys.argv[2])
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def service() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts a service in a process of its own; returns the process and the port of its liveness server."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: Mode, then: str = "pass") -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", SERVICE, mode, then]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        get(port)
    except (OSError, HTTPError):
        return True
    return False


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait; fail if that takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


FORKS: Final = """
child = os.fork()
if not child:
    os.close(1)
    time.sleep(600)
print(child, flush=True)
"""

Start = Callable[..., tuple[subprocess.Popen[str], int]]


@BOTH
@pytest.mark.parametrize("forks", ["", FORKS], ids=["alone", "forked"])
def test_nobody_answers_for_a_killed_service(service: Start, mode: Mode, forks: str) -> None:
    """The process goes with it, and the port is free; also where the service has forked a child that lives on."""
    process, port = service(mode, forks)
    assert process.stdout is not None
    child = int(process.stdout.readline()) if forks else None
    family = sidecars(process.pid)
    assert len(family) == (mode == "process")
    assert get(port).status_code == 200
    try:
        process.kill()
        wait_until(lambda: refused(port))
        wait_until(lambda: not any(map(lives, family)))
        with socket.create_server((LOCAL, port)):
            pass
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)


def test_a_process_that_was_stopped_goes_with_its_parent(service: Start) -> None:
    """The kernel sees to it: it can do nothing itself."""
    process, _ = service("process")
    (pid,) = sidecars(process.pid)
    os.kill(pid, signal.SIGSTOP)
    process.kill()
    wait_until(lambda: not lives(pid))


def test_signals_to_the_whole_group_leave_the_process_serving(service: Start) -> None:
    """Service managers signal every process; liveness is asked until the main one is done."""
    process, port = service("process")
    (pid,) = sidecars(process.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    time.sleep(0.1)
    assert get(port).status_code == 200
    assert sidecars(process.pid) == [pid]


@BOTH
def test_an_extension_that_keeps_the_interpreter(service: Start, mode: Mode) -> None:
    """The process answers meanwhile; the thread answers afterwards."""
    hold = "import ctypes; asyncio.get_running_loop().call_later(0.5, ctypes.PyDLL(None).usleep, 2_000_000)"
    process, port = service(mode, hold)
    time.sleep(1.0)
    begun = time.monotonic()
    assert get(port).status_code == 200
    took = time.monotonic() - begun
    assert took < 0.9 if mode == "process" else took > 0.3
    assert process.poll() is None


NO_FILES: Final = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    asyncio.get_running_loop().call_later(1.5, lambda taken=held: [os.close(each) for each in taken])
print("none left", flush=True)
"""


def test_a_service_without_file_descriptors_answers_when_it_has_some(service: Start) -> None:
    """Whoever connects waits, and waiting burns no processor."""
    process, port = service("thread", NO_FILES)
    assert process.stdout is not None
    assert process.stdout.readline() == "none left\n"
    before = processor_seconds(process.pid)
    assert get(port).status_code == 200
    assert processor_seconds(process.pid) - before < 0.5


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def test_what_is_written_expires_by_itself() -> None:
    """Nobody writes any more: the process says no, with a body of its own."""
    fd = by_process._nameless_file()  # noqa: SLF001 - the slate of a main process that has fallen silent.
    slate = Slate(fd)
    slate.write({"livez": Written(200, b"{}", b"well\n", time.monotonic() - 1)})
    with socket.create_server((LOCAL, 0)) as listening:
        child = Child(listening, slate, os.getpid())
        assert child.starts()
        port = listening.getsockname()[1]
        assert (await asked(port)).json() == {"status": "fail", "output": "the process has been silent for too long"}
        assert (await asked(port, accept="text/plain")).status_code == 503
        slate.write({"livez": Written(200, b"{}", b"well\n", time.monotonic() + 60)})
        assert (await asked(port, accept="text/plain")).text == "well\n"
        child.stop()
    slate.close()


async def test_too_many_components_for_the_slate(caplog: pytest.LogCaptureFixture) -> None:
    """The verdict is told, the names are not; and that is told once."""
    checker = Checker()
    for number in range(200):
        checker.add(f"check-{number}", passing())
    answers = by_process.ByProcess(checker, ["readyz"], "names")
    slate = Slate(by_process._nameless_file(), 4096)  # noqa: SLF001
    for _ in range(3):
        answers._write(slate)  # noqa: SLF001
    record = slate.read()
    slate.close()
    await checker.run("livez")

    assert record is not None
    assert record["readyz"].as_json == b'{"status":"fail"}'
    assert sum("verdicts only" in line.getMessage() for line in caplog.records) == 1


class TestSlate:
    """Two processes, one memory."""

    @staticmethod
    def pair() -> tuple[Slate, Slate]:
        """A writer and a reader."""
        fd = by_process._nameless_file()  # noqa: SLF001
        return Slate(fd), Slate(os.dup(fd))

    def test_the_last_record_is_read(self) -> None:
        """None before the first."""
        writer, reader = self.pair()
        assert reader.read() is None
        for number in range(5):
            record = {"livez": Written(200, b"j" * number, b"t", float(number))}
            assert writer.write(record)
            assert reader.read() == record
        assert not writer.write({"livez": Written(200, b"j" * SIDE_BYTES, b"t", 0.0)})
        assert reader.read() == record

    @pytest.mark.parametrize("position", [0, 8, 12, 16, 30])
    def test_half_a_record_is_never_read(self, position: int) -> None:
        """Wherever it is torn: the one before stands."""
        writer, reader = self.pair()
        first, second = ({"livez": Written(200, body, b"t", 1.0)} for body in (b"first", b"second"))
        writer.write(first)
        writer.write(second)
        memory = writer._memory  # noqa: SLF001 - as a writer that was interrupted leaves it.
        memory[position] ^= 0xFF  # The second record is on the first side.

        assert reader.read() == first

    def test_a_reader_beside_a_writer_sees_whole_records_only(self) -> None:
        """As fast as both can."""
        writer, reader = self.pair()
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                writer.write({"livez": Written(200, b"%d" % number * 3000, b"%d" % number, float(number))})

        thread = threading.Thread(target=write)
        thread.start()
        seen: list[float] = []
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            record = reader.read()
            if record is not None:
                written = record["livez"]
                assert written.as_json == written.as_text * 3000
                seen.append(written.believed_until)
        stop.set()
        thread.join()
        assert seen == sorted(seen)
        assert seen[-1] > 2


def test_fuzzed_requests_have_an_answer() -> None:
    """Whatever bytes come: nothing, a request, or a refusal; and what was taken is gone."""
    choice = random.Random(7)
    parts = [
        b"GET",
        b" ",
        b"/livez",
        b" HTTP/1.1",
        b"\r\n",
        b"\r\n\r\n",
        b":",
        b"\x00",
        b"a" * 3000,
        b"x: y",
        b"\n",
        b"?",
    ]
    for _ in range(20_000):
        buffer = bytearray(b"".join(choice.choices(parts, k=choice.randint(0, 9))))
        before = len(buffer)
        taken = http1.take(buffer)
        assert taken is None or isinstance(taken, http1.Request | http1.Answer)
        assert len(buffer) <= before
        assert not (isinstance(taken, http1.Request) and len(buffer) == before)


def test_nothing_is_loaded_by_the_process_but_the_standard_library() -> None:
    """Its modules import each other and light modules alone."""
    program = """
import sys, types, otel_health
root = otel_health.__path__[0]
for name in [name for name in sys.modules if name.split(".")[0] in ("otel_health", "opentelemetry", "starlette")]:
    del sys.modules[name]
for package in ("", ".http", ".lifecycle", ".lifecycle.serving"):
    module = sys.modules["otel_health" + package] = types.ModuleType("otel_health" + package)
    module.__path__ = [root + package.replace(".", "/")]
import otel_health.lifecycle.serving.sidecar
print(sorted({name.split(".")[0] for name in sys.modules} & {"otel_health", "opentelemetry", "starlette"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['otel_health']"


async def test_the_log_is_quiet_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    """Opening, answering and closing are nothing to tell of."""
    caplog.set_level(logging.WARNING, "otel_health")
    for mode in MODES:
        async with serving(Checker(), mode) as server:
            await asked(server.port)
    assert caplog.records == []
