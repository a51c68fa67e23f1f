"""Several workers of one service, as servers really run them: gunicorn with and without preload, uvicorn, reload."""

import asyncio
import marshal
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import prometheus_client
import pytest
from httpx2 import Client, HTTPError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from otel_health import Checker, Degraded, Status
from otel_health.lifecycle import Drain, LivenessServer
from otel_health.lifecycle.serving.slate import Slate
from otel_health.prometheus import PrometheusExporter
from otel_health.registration import Instance, Member, Registration, Standing
from otel_health.report import CheckResult, ErrorType
from otel_health.workers import Workers
from otel_health.workers.exposition import merged
from otel_health.workers.leadership import Leadership
from otel_health.workers.meeting import LOCK, enter, meeting_place, present
from otel_health.workers.page import Page, decoded, encoded
from otel_health.workers.processes import Process, process
from otel_health.workers.scraping import Answering, Asking
from otel_health.workers.siblings import SIDE_BYTES
from otel_health.workers.workers import TICK
from tests.doubles import eventually, failing, hanging, passing
from tests.servers import free_port, parent_and_state, shared_postgres
from tests.services import PATIENCE, Service, serving

INTERVAL: Final = 0.5
"""Seconds between two runs of the service's shared check."""

SERVICE: Final = '''
"""A service as one would write it, with a shared check on a real database; RUNS has a line for each of its runs."""
import asyncio, os, time
from contextlib import asynccontextmanager
import asyncpg
from starlette.applications import Starlette
from otel_health import Checker
from otel_health.lifecycle import LivenessServer, LoopMonitor
from otel_health.prometheus import PrometheusExporter
from otel_health.workers import Workers

exporter = PrometheusExporter()
checker = Checker(meter_provider=exporter.meter_provider, interval=0.5, timeout=1.0, service_id="orders")
checker.add("thread", lambda: None, local=True, probes={"livez", "readyz"})
if os.environ.get("WARM_UP"):
    assert asyncio.run(checker.run("livez")).status.up

@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(
        host="127.0.0.1", port=int(os.environ["POSTGRES"]), user="postgres", database="postgres", min_size=0,
        server_settings={"application_name": os.environ["NAME"]},
    ) as pool:
        async def postgres():
            await pool.execute("SELECT 1")
            with open(os.environ["RUNS"], "a") as runs:
                runs.write(f"{time.monotonic()} {os.getpid()}\\n")
        checker.add("postgres", postgres, shared=True, probes={"readyz", "startupz"})
        async with checker, Workers(checker, exporter=exporter, wedged_after=1.0) as workers:
            if "LIVENESS" not in os.environ:
                yield
                return
            async with (
                LoopMonitor(checker, stuck_after=2.0),
                LivenessServer(checker, host="127.0.0.1", port=int(os.environ["LIVENESS"]), mode=os.environ["MODE"],
                    workers=workers),
            ):
                yield

app = Starlette(routes=[*checker.routes(details="full"), exporter.route()], lifespan=lifespan)
'''


class Run(NamedTuple):
    """One run of the shared check."""

    at: float
    pid: int


class Several:
    """A service that several workers serve."""

    def __init__(self, service: Service, runs: Path, name: str) -> None:
        self.service = service
        self.name = name
        self._runs = runs

    def get(self, path: str, **headers: str) -> Any:
        """An answer, whoever gives it."""
        with Client(timeout=PATIENCE) as client:
            return client.get(f"http://127.0.0.1:{self.service.port}{path}", headers=headers)

    def workers(self) -> dict[str, Any]:
        """What the component `workers` says."""
        entries = self.get("/healthz").json()["checks"]
        observed = {name.partition(":")[2]: entry[0] for name, entry in entries.items() if name.startswith("workers:")}
        found: dict[str, Any] = {name: int(entry["observedValue"]) for name, entry in observed.items() if name}
        return {**found, "status": entries["workers"][0]["status"], "output": entries["workers"][0].get("output")}

    def pids(self) -> set[int]:
        """The workers that a scrape shows."""
        text = self.get("/metrics").text
        ours = [line for line in text.splitlines() if line.startswith("otel_health_")]
        return {int(line.split('"')[1]) for line in ours if "service_instance_id=" in line}

    def runs(self) -> list[Run]:
        """The runs of the shared check so far."""
        lines = self._runs.read_text().splitlines() if self._runs.exists() else []
        return [Run(float(at), int(pid)) for at, pid in (line.split() for line in lines)]

    def waits(self, true: Callable[[], bool], seconds: float = PATIENCE) -> float:
        """Wait until it is so; return when it was."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return time.monotonic()
            except (HTTPError, KeyError, ValueError):
                pass  # It is starting, or just being ended.
            assert time.monotonic() < deadline, self.service.log
            time.sleep(0.02)

    def connections(self) -> int:
        """How many connections the service has at the database."""

        async def count() -> int:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=shared_postgres(), user="postgres", database="postgres"
            )
            try:
                return int(
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", self.name
                    )
                )
            finally:
                await connection.close()

        return asyncio.run(count())


@contextmanager
def several(directory: Path, server: str, **environment: str) -> Iterator[Several]:
    """The service under a server, with all its workers there."""
    name, runs = f"otel_health-{os.getpid()}-{time.monotonic_ns()}", directory / "runs"
    runtime = Path(f"/tmp/{name}")
    runtime.mkdir(0o700)
    environment |= {
        "POSTGRES": str(shared_postgres()),
        "NAME": name,
        "RUNS": str(runs),
        "XDG_RUNTIME_DIR": str(runtime),
    }
    try:
        with serving(directory, server, SERVICE, 0, **environment) as service:
            yield Several(service, runs, name)
    finally:
        shutil.rmtree(runtime)


COUNTS: Final = {"gunicorn-4": 4, "gunicorn-4-preload": 4, "workers": 2, "reload": 1}


@pytest.mark.parametrize("server", COUNTS)
def test_one_of_them_runs_what_they_share(server: str, tmp_path: Path) -> None:
    """Once for each interval, over one connection; and whoever is scraped shows all."""
    count = COUNTS[server]
    with several(tmp_path, server, WARM_UP="1" if "preload" in server else "") as service:
        service.waits(lambda: service.workers()["workers"] == count)
        service.waits(lambda: service.get("/readyz").status_code == 200)
        service.waits(lambda: len(service.pids()) == (count if count > 1 else 0))
        begun = time.monotonic()
        time.sleep(6 * INTERVAL)
        runs = [run for run in service.runs() if run.at >= begun]
        text = service.get("/metrics").text

        assert service.workers() == {"workers": count, "wedged": 0, "status": "pass", "output": None}
        assert len({run.pid for run in runs}) == 1
        assert 3 <= len(runs) <= 8
        assert service.connections() == 1
        for component in ("postgres", "thread"):
            up = [line for line in text.splitlines() if "check_up{" in line and f'component="{component}"' in line]
            assert len(up) == count
            assert all(line.endswith(" 1.0") for line in up)
        if shutil.which("promtool"):
            subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True, timeout=30)


def test_a_leader_that_is_killed_or_wedged_makes_nobody_unready(tmp_path: Path) -> None:
    """It is followed within an interval; who stands still is named, and holds up no scrape."""
    with several(tmp_path, "gunicorn-4") as service:
        service.waits(lambda: service.workers()["workers"] == 4 and len(service.pids()) == 4)
        service.waits(lambda: len(service.runs()) >= 3)
        first = service.runs()[-1]
        os.kill(first.pid, signal.SIGKILL)
        service.waits(lambda: service.runs()[-1].pid != first.pid)
        follower = next(run for run in service.runs() if run.at > first.at and run.pid != first.pid)
        assert follower.at - first.at < 2 * INTERVAL + 1.0  # An interval, and what a busy machine takes.

        service.waits(lambda: service.workers()["workers"] == 4 and len(service.pids()) == 4)
        os.kill(follower.pid, signal.SIGSTOP)
        try:
            seen = {"status": "warn", "output": f"1 of 4 workers do not beat: {follower.pid}"}
            service.waits(lambda: service.workers() == {"workers": 4, "wedged": 1, **seen})
            begun = time.monotonic()
            while time.monotonic() < begun + 2 * INTERVAL + 1.5:  # Longer than a result is believed.
                assert service.get("/readyz").status_code == 200
                time.sleep(0.02)
            assert len(service.pids() - {follower.pid}) == 3
            assert time.monotonic() - begun < 15
            assert {run.pid for run in service.runs() if run.at > begun} - {follower.pid}
        finally:
            os.kill(follower.pid, signal.SIGCONT)
        service.waits(lambda: service.workers()["wedged"] == 0)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_one_port_answers_for_the_liveness_of_all(mode: str, tmp_path: Path) -> None:
    """A wedged worker fails it once its loop counts as dead; whoever has the port is followed when it dies."""
    port = free_port()

    def livez() -> int:
        return int(get(f"http://127.0.0.1:{port}/livez").status_code)

    with several(tmp_path, "gunicorn-4", LIVENESS=str(port), MODE=mode) as service:
        watched = 'component="event-loop"} 1.0'
        service.waits(lambda: sum(watched in line for line in service.get("/metrics").text.splitlines()) == 4)
        service.waits(lambda: livez() == 200)
        time.sleep(4 * TICK)  # Until each has told of its loop's monitor: one that has none is believed for longer.
        stopped = (service.pids() - {listens_at(port)}).pop()
        os.kill(stopped, signal.SIGSTOP)
        try:
            service.waits(lambda: livez() == 503)
            assert get(f"http://127.0.0.1:{port}/livez").json() == {
                "status": "fail",
                "output": "another worker is not alive",
            }
        finally:
            os.kill(stopped, signal.SIGCONT)
        service.waits(lambda: livez() == 200)
        before = listens_at(port)
        os.kill(before, signal.SIGKILL)
        service.waits(lambda: livez() == 200 and listens_at(port) != before)


def get(url: str) -> Any:
    """One request on a connection of its own."""
    with Client(timeout=PATIENCE) as client:
        return client.get(url)


def listens_at(port: int) -> int:
    """Which worker of gunicorn has the port, by itself or by a process of its own."""
    inode = next(
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[1] == f"0100007F:{port:04X}" and fields[3] == "0A"
    )
    holders = set()
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(fd) == f"socket:[{inode}]":
                holders.add(int(fd.parts[2]))
    parents = {pid: parent_and_state(Path(f"/proc/{pid}/stat"))[0] for pid in holders}
    return next(pid for pid, parent in parents.items() if parent not in holders)


@pytest.mark.usefixtures("runtime")
async def test_a_result_that_came_earlier_is_not_adopted_though_a_new_one_is_asked_for() -> None:
    """What a wedged sibling still says is older than the failure that this worker has seen since."""
    healthy = False
    checker = Checker()
    checker.add("queue", lambda: healthy, shared=True, interval=100)
    async with checker:
        await eventually(lambda: checker.report().components["queue"].result is not None)
        earlier = checker.now() - 1
        checker.engine.registry.get("queue").finished = float("-inf")  # As `renew` leaves it until the run has ended.

        assert not checker.engine.adopt(CheckResult("queue", Status.PASS, 0.1, time.time()), earlier)
        assert checker.report().status is Status.FAIL


async def test_a_port_that_somebody_else_has_is_told_of() -> None:
    """Nobody would ever take it over."""
    checker = Checker()
    workers = Workers(checker)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with checker, workers:
            with pytest.raises(OSError, match="give it a port that nothing else uses; several workers share"):
                await LivenessServer(checker, host="127.0.0.1", port=port, workers=workers).__aenter__()
    wrong: Any = workers.place
    with pytest.raises(TypeError, match="pass the open Workers"):
        LivenessServer(checker, port=1, workers=wrong)
    with pytest.raises(ValueError, match="a port of its own; choose one"):
        LivenessServer(checker, port=0, workers=workers)


# What they take from each other.


def measured(value: object) -> Callable[[], Any]:
    """A check that returns or raises this."""

    async def check() -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return check


@pytest.mark.parametrize(
    "check",
    [
        passing(),
        measured({"backlog": 3}),
        measured(Degraded("12 waiting", backlog=12)),
        failing(ConnectionError("refused")),
        measured(42),
        hanging(),
    ],
    ids=["pass", "observation", "warn", "exception", "invalid", "timeout"],
)
async def test_an_adopted_result_is_the_same_in_every_sink(check: Any, caplog: pytest.LogCaptureFixture) -> None:
    """State, page, metrics, log and transition; but nothing ran here, so no duration and no failure is counted."""
    caplog.set_level("INFO", "otel_health")
    exporters = [PrometheusExporter(), PrometheusExporter()]
    leader, follower = (Checker(meter_provider=exporter.meter_provider, timeout=0.05) for exporter in exporters)
    calls = []
    leader.add("queue", check, shared=True)
    follower.add("queue", lambda: calls.append("ran"), shared=True, initial_delay=100)
    seen: list[Any] = []
    follower.subscribe(lambda transition: seen.append((transition.component, transition.before, transition.after)))
    async with leader, follower:
        await eventually(lambda: leader.report().components["queue"].decided)
        ((result, finished),) = leader.engine.shared_results()
        (heard,) = (decoded(encoded(Page(0.0, True, 0.0, ((result, finished),)))) or pytest.fail("unread")).results
        assert follower.engine.adopt(*heard)
        assert not follower.engine.adopt(*heard)

        assert follower.report().components["queue"] == leader.report().components["queue"]
        assert follower.engine.shared_results() == leader.engine.shared_results()
        assert seen == [("queue", None, result.status)]
        texts = [(await exporter.scraped()).text.decode().splitlines() for exporter in exporters]
        runs, state = [
            [
                {line for line in text if 'component="queue"' in line and any(name in line for name in names)}
                for text in texts
            ]
            for names in (("_duration_", "_failures_"), ("check_up", "check_status", "_last_", "_observation"))
        ]
        assert runs[0]
        assert not runs[1]
        assert state[0] == state[1] != set()
    assert calls == []
    assert caplog.text.count(f"queue: pending -> {result.status}") == 2


async def test_what_is_not_newer_or_not_shared_is_not_adopted() -> None:
    """Nor what is expired, from the future, of nobody known, or brought to a Checker that is closed."""
    checker = Checker(interval=10, timeout=1)
    checker.add("shared", passing(), shared=True, initial_delay=100)
    checker.add("own", passing(), initial_delay=100)
    result = CheckResult("shared", Status.PASS, 0.1, time.time())
    now = checker.now()
    assert not checker.engine.adopt(result, now)
    async with checker:
        for component, finished in (("own", now), ("none", now), ("shared", now + 60), ("shared", now - 21.1)):
            assert not checker.engine.adopt(result._replace(component=component), finished)
        assert checker.engine.adopt(result, now - 20)
        assert checker.engine.adopt(result, now - 10)
        assert not checker.engine.adopt(result, now - 15)


async def test_thresholds_count_what_is_adopted() -> None:
    """As they count runs."""
    checker = Checker()
    checker.add("queue", passing(), shared=True, initial_delay=100, failure_threshold=2)
    now = checker.now()
    async with checker:
        for age, status, held in ((3, "pass", "pass"), (2, "fail", "pass"), (1, "fail", "fail")):
            checker.engine.adopt(CheckResult("queue", Status(status), 0.1, time.time()), now - age)
            assert checker.report().components["queue"].status == held


async def test_a_thread_that_did_not_come_free_is_nobody_elses_business() -> None:
    """It says nothing of what the check is for."""
    checker = Checker()
    checker.add("queue", passing(), shared=True, initial_delay=100)
    async with checker:
        checker.engine.adopt(
            CheckResult("queue", Status.FAIL, None, time.time(), ErrorType.SATURATED), checker.now() - 1
        )
        assert checker.engine.shared_results() == []


def test_what_is_local_cannot_be_shared() -> None:
    """It is refused where it is written."""
    with pytest.raises(ValueError, match=r"check 'memory': what is local .* leave out"):
        Checker().add("memory", passing(), local=True, shared=True)


@pytest.mark.parametrize(
    "content", [b"", b"x", marshal.dumps((99, 1)), marshal.dumps((1, 0.0, True, 0.0, [(1,)])), b"\xff" * 99]
)
def test_what_is_no_page_is_none(content: bytes) -> None:
    """A sibling of another version is not understood, and does no harm."""
    assert decoded(content) is None


# Where they meet.


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own; pytest's have long names."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory)


def left_in(directory: Path) -> list[str]:
    """All that is in a directory, and below."""
    return [str(path.relative_to(directory)) for path in directory.rglob("*")]


def test_siblings_have_the_same_parent_directory_command_and_service(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a group of the same name, wherever they are."""
    place, group = meeting_place(None, "orders"), meeting_place("shop", "orders")
    assert place == meeting_place(None, "orders")
    assert place.parent.parent == runtime
    assert meeting_place(None, "payments") != place
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--port", "8001"])
    assert meeting_place(None, "orders") != place
    monkeypatch.chdir(runtime)
    assert meeting_place("shop", "orders") == group != meeting_place("other", "orders")


@pytest.mark.usefixtures("runtime")
def test_the_dead_are_swept_and_a_reused_number_is_no_sibling() -> None:
    """By number and start."""
    place, own = meeting_place("shop", None), process(os.getpid())
    os.close(enter(place, own, 4096))
    parent = process(os.getppid())
    for other in (Process(own.pid, own.started - 1), Process(2**22 - 1, 1), parent):
        (place / f"{other}.slate").write_bytes(b"")
        (place / f"{other}.socket").write_bytes(b"")

    assert set(present(place)) == {own, parent}
    assert {path.name for path in place.iterdir()} == {f"{own}.slate", f"{parent}.slate", f"{parent}.socket"}


@pytest.mark.usefixtures("runtime")
def test_what_dead_groups_have_left_is_removed() -> None:
    """By the next who starts a service."""
    old, place = meeting_place("old", None), meeting_place("shop", None)
    old.mkdir(0o700, parents=True)
    old.parent.chmod(0o700)
    (old / f"{2**22 - 1}-1.slate").write_bytes(b"")
    (old / LOCK).write_bytes(b"")
    os.close(enter(place, process(os.getpid()), 4096))

    assert not old.exists()
    assert place.exists()


def test_a_directory_that_others_may_enter_is_refused(runtime: Path) -> None:
    """They could tell us anything."""
    place = meeting_place("shop", None)
    place.parent.mkdir(0o755)
    place.parent.chmod(0o755)
    with pytest.raises(PermissionError, match="nobody else may enter; remove it, or set XDG_RUNTIME_DIR"):
        enter(place, process(os.getpid()), 4096)
    place.parent.rmdir()
    place.parent.symlink_to(runtime)
    with pytest.raises(PermissionError, match="must be a directory"):
        enter(place, process(os.getpid()), 4096)


def test_a_path_that_is_too_long_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix socket would not take it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{runtime}/{'x' * 80}")
    with pytest.raises(OSError, match="too long a path for a Unix socket; set XDG_RUNTIME_DIR"):
        enter(meeting_place("shop", None), process(os.getpid()), 4096)


def test_one_leads_until_it_gives_up(tmp_path: Path) -> None:
    """A lock whose file is gone keeps nobody out, and so is none."""
    first, second, third = (Leadership(tmp_path / LOCK) for _ in range(3))
    assert (first.seek(), second.seek(), first.seek()) == (True, False, False)
    first.give_up()
    assert second.seek()
    assert not first.held
    (tmp_path / LOCK).unlink()
    assert third.seek()
    assert Leadership(tmp_path / "none" / LOCK).seek() is False


async def test_closing_leaves_nothing(runtime: Path, threads: Callable[[], int]) -> None:
    """No thread, file, descriptor or component; and it may be opened again."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    workers = Workers(checker, exporter=exporter)
    assert left_in(runtime) == []
    with pytest.raises(RuntimeError, match="async with checker, Workers"):
        await workers.__aenter__()
    async with checker:
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with workers:
                assert workers.leads
                with pytest.raises(RuntimeError, match="already open"):
                    await workers.__aenter__()
            assert "workers" not in checker
            assert exporter.siblings is None
            assert left_in(runtime) == [f"otel_health-{os.geteuid()}"]
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)
    await eventually(lambda: threads() == 0)


async def test_where_it_cannot_meet_nothing_is_left(runtime: Path) -> None:
    """The error is the caller's, and the Checker goes on."""
    (runtime / f"otel_health-{os.geteuid()}").write_text("in the way")
    exporter = PrometheusExporter()
    async with Checker(meter_provider=exporter.meter_provider) as checker:
        with pytest.raises(PermissionError, match="must be a directory"):
            await Workers(checker, exporter=exporter).__aenter__()
        assert checker.names == ()


def test_what_makes_no_sense_is_refused() -> None:
    """Where it is written."""
    checker, exporter = Checker(), PrometheusExporter()
    with pytest.raises(ValueError, match="cannot name a group of workers"):
        Workers(checker, group="../other")
    with pytest.raises(ValueError, match="wedged_after=0 must be"):
        Workers(checker, wedged_after=0)
    wrong: Any = exporter.registry
    with pytest.raises(TypeError, match="pass a PrometheusExporter"):
        Workers(checker, exporter=wrong)


class Sibling:
    """Another worker, as the one under test sees it: a process that lives, a page, and maybe the lock."""

    def __init__(self, place: Path) -> None:
        self._slate = Slate(enter(place, process(os.getppid()), 2 * SIDE_BYTES), SIDE_BYTES)
        self.leadership = Leadership(place / LOCK)

    def tell(self, status: Status, finished: float, beat: float = float("inf")) -> None:
        """Write what its check `queue` has brought."""
        result = CheckResult("queue", status, 0.1, time.time())
        self._slate.put(encoded(Page(beat, True, float("inf"), ((result, finished),))))

    def close(self) -> None:
        """Leave no lock and no memory."""
        self.leadership.give_up()
        self._slate.close()


@pytest.mark.usefixtures("runtime")
async def test_who_follows_takes_every_result_and_who_leads_runs_in_time() -> None:
    """What a sibling brings is adopted as it comes, long before a run here would be due; the lock changes that."""
    calls = []
    checker = Checker(interval=100, timeout=1)
    checker.add("queue", lambda: calls.append("ran"), shared=True)
    workers = Workers(checker, group="shop")
    sibling = Sibling(workers.place)
    assert sibling.leadership.seek()
    try:
        sibling.tell(Status.PASS, checker.now() - 99.9)
        async with checker, workers:
            assert checker.report().status is Status.PASS
            sibling.tell(Status.WARN, checker.now() - 99.5)
            await eventually(lambda: checker.report().status is Status.WARN)
            await asyncio.sleep(1.5)  # Longer than a first run is put off.
            assert calls == []
            sibling.leadership.give_up()
            await eventually(lambda: workers.leads and calls != [])
            assert checker.report().status is Status.PASS
    finally:
        sibling.close()


class Slow:
    """A service registry that takes its time to take an instance out."""

    name, ttl = "memory", 15.0

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.asked, self.may_go = asyncio.Event(), asyncio.Event()

    async def register(self, instance: Instance, _: Standing) -> None:
        """Take it in."""
        self.known.add(instance.id)

    renew = register

    async def withdraw(self, instance: Instance) -> None:
        """Take it out, when it may."""
        self.asked.set()
        await self.may_go.wait()
        self.known.discard(instance.id)

    async def members(self, _: str) -> list[Member]:
        """Nobody asks."""
        return []


@pytest.mark.usefixtures("runtime")
async def test_a_leader_that_drains_lets_another_lead_as_soon_as_its_instance_is_withdrawn() -> None:
    """Not before, or it would take out what the other has put there; nor at its end, with nobody registered so long."""
    registry, checker = Slow(), Checker()
    drain, workers = Drain(checker, delay=600.0), Workers(checker, group="shop", wedged_after=0.04)
    where = {"service": "orders", "address": "127.0.0.1", "port": 8000, "timeout": 60.0}
    async with checker, workers, drain, Registration(checker, registry, drain=drain, workers=workers, **where):  # type: ignore[arg-type]
        successor = Leadership(workers.place / LOCK)
        await eventually(lambda: registry.known != set())

        drain.begin()
        await registry.asked.wait()
        await asyncio.sleep(0.1)
        assert (workers.leads, successor.seek()) == (True, False)
        registry.may_go.set()

        await eventually(successor.seek)
        assert (registry.known, workers.leads) == (set(), False)
        successor.give_up()
        await asyncio.sleep(0.1)
        assert not workers.leads


@pytest.mark.usefixtures("runtime")
async def test_who_stands_still_is_named_by_name_and_number() -> None:
    """On healthz alone; it is up, since the others serve on."""
    checker = Checker()
    workers = Workers(checker, group="shop", wedged_after=1.0)
    sibling = Sibling(workers.place)
    try:
        sibling.tell(Status.PASS, 0.0, beat=checker.now() - 2)
        async with checker, workers:
            await eventually(lambda: checker.report("healthz").components["workers"].decided)
            state = checker.report("healthz").components["workers"]
            assert state.result is not None
            assert (state.status, state.result.observations) == (Status.WARN, {"workers": 2, "wedged": 1})
            assert state.result.message == f"1 of 2 workers do not beat: {os.getppid()}"
            assert all("workers" not in checker.report(probe).components for probe in ("livez", "readyz", "startupz"))
            sibling.tell(Status.PASS, 0.0)
            await eventually(lambda: checker.report("healthz").status is Status.PASS)
    finally:
        sibling.close()


# One scrape.


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_a_worker_alone_is_scraped_as_ever(accept: str) -> None:
    """To the byte, but for the component that says so."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("redis", failing())
    async with checker, Workers(checker, exporter=exporter):
        await eventually(lambda: checker.report("healthz").components["redis"].decided)
        text, media_type = await exporter.scraped(accept)
        assert text == await exporter.own(accept)
        assert b'otel_health_check_up{component="workers"} 1.0' in text
        assert ("openmetrics" in media_type) == bool(accept)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_the_texts_of_two_are_one(accept: str) -> None:
    """Our families once, with a label; others as the answering worker has them."""
    texts = []
    for name in ("redis", 'mail"er{}'):
        exporter = PrometheusExporter()
        prometheus_client.Counter("visits", "Visits.", ["page"], registry=exporter.registry).labels("/").inc()
        checker = Checker(meter_provider=exporter.meter_provider)
        checker.add("redis", failing() if name == "redis" else passing())
        exporter.meter_provider.get_meter("own").create_counter("otel_health.own").add(1, {"name": name})
        async with checker:
            await checker.run()
            texts.append(await exporter.own(accept))

    one = merged(texts[0], "1", {"2": texts[1], "3": texts[1]})
    parse = openmetrics if accept else plain
    found = list(parse(one.decode()))

    assert len({family.name for family in found}) == len(found)
    samples = [sample for family in found for sample in family.samples]
    up = {s.labels["service_instance_id"]: s.value for s in samples if s.name == "otel_health_check_up"}
    assert up == {"1": 0, "2": 1, "3": 1}
    assert [s.value for s in samples if s.name == "visits_total"] == [1]
    assert {s.labels["name"] for s in samples if s.name == "otel_health_own_total"} == {"redis", 'mail"er{}'}
    alone = [s for family in parse(texts[0].decode()) for s in family.samples]
    kept = [s for s in samples if s.labels.get("service_instance_id") in (None, "1") or s.name == "target_info"]
    assert len(kept) == len(alone)


@pytest.mark.usefixtures("runtime")
async def test_a_sibling_that_does_not_answer_is_left_out() -> None:
    """Whether it says nothing, hangs up in the middle, or has no socket at all."""
    place, own = meeting_place("shop", None), process(os.getpid())
    os.close(enter(place, own, 4096))
    others = [Process(number, 1) for number in range(1, 5)]

    async def answers(content: bytes | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if content is None:
            await reader.read()  # Until the other side has gone.
        else:
            writer.write(content)
        writer.close()

    contents = {others[0]: None, others[1]: b"\0\0", others[2]: struct.pack("!Q", 3) + b"abc"}
    async with AsyncExitStack() as stack:
        for other, content in contents.items():
            path = place / f"{other}.socket"
            server = await asyncio.start_unix_server(partial(answers, content), path)
            stack.callback(server.close)
        begun = time.monotonic()
        assert await Asking(place, own, lambda: others).texts("") == {"3": b"abc"}
        assert time.monotonic() - begun < 10
        await asyncio.sleep(0.05)  # What was asked in vain is closed by now.


@pytest.mark.usefixtures("runtime")
async def test_two_that_are_scraped_at_once_do_not_wait_for_each_other() -> None:
    """As a pair of Prometheus servers does it."""
    place = meeting_place("shop", None)
    place.mkdir(0o700, parents=True)
    exporters = {Process(number, 1): PrometheusExporter() for number in (1, 2)}
    answering = []

    def others_of(own: Process) -> list[Process]:
        return [other for other in exporters if other != own]

    for own, exporter in exporters.items():
        exporter.meter_provider.get_meter("own").create_counter("otel_health.own").add(1)
        answering.append(Answering(place / f"{own}.socket", exporter.own))
        exporter.siblings = Asking(place, own, partial(others_of, own))
    try:
        for scrape in await asyncio.gather(*(exporter.scraped() for exporter in exporters.values())):
            assert scrape.text.count(b"otel_health_own_total{") == 2
    finally:
        for each in answering:
            each.close()
