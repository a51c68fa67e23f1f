"""Every example and every README snippet runs."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Client

from examples import blocking, fastapi_service, five_lines, orders, registered, worker
from tests.doubles import eventually
from tests.servers import free_port, shared_etcd, shared_postgres, shared_redis

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def opened(app: Any) -> AsyncIterator[AsyncClient]:
    """The application with its lifespan, and a client of it."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def answers(client: AsyncClient, path: str, status: int) -> dict[str, Any]:
    """Ask until the answer has this status, for five seconds at most."""
    deadline = time.monotonic() + 5
    while (response := await client.get(path)).status_code != status:
        assert time.monotonic() < deadline, response.text
        await asyncio.sleep(0.01)
    return dict(response.json())


async def test_five_lines() -> None:
    """The README's first example is ready after its first round."""
    async with opened(five_lines.app) as client:
        assert await answers(client, "/readyz", 200) == {"status": "pass", "checks": {"database": [{"status": "pass"}]}}


async def test_the_orders_service_is_broken_and_healed(tmp_path: Path) -> None:
    """As its guide says: the database goes, readiness fails, liveness stays; it comes back, and all is well."""
    path = tmp_path / "orders.sqlite3"
    async with opened(orders.create_app(path, interval=0.1)) as client:
        await answers(client, "/readyz", 200)
        await answers(client, "/startupz", 200)
        path.rename(tmp_path / "away")
        broken = await answers(client, "/readyz", 503)
        assert broken["checks"]["database"] == [{"status": "fail", "errorType": "failed"}]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/startupz")).status_code == 200
        assert 'otel_health_check_up{component="database"} 0.0' in (await client.get("/metrics")).text
        (tmp_path / "away").rename(path)
        await answers(client, "/readyz", 200)


async def test_the_orders_service_warns_of_its_backlog(tmp_path: Path) -> None:
    """Twelve orders wait: a warn, which is not a fail; shipped, it passes again."""
    async with opened(orders.create_app(tmp_path / "orders.sqlite3", interval=0.05)) as client:
        for number in range(12):
            assert (await client.post("/orders")).json() == {"order": number + 1}
        assert (await client.get("/orders")).json() == {"waiting": 12}
        await eventually_status(client, "backlog", "warn")
        assert (await client.delete("/orders")).json() == {"shipped": 12}
        await eventually_status(client, "backlog", "pass")


async def eventually_status(client: AsyncClient, component: str, status: str) -> None:
    """Wait until a component has this status."""
    deadline = time.monotonic() + 5
    while (await client.get(f"/healthz/{component}")).json()["status"] != status:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["thread", "process"])
async def test_the_blocking_service_is_alive_until_it_is_stuck(mode: str) -> None:
    """As its docstring says: liveness answers while the loop is blocked, and fails when that takes too long."""
    port = free_port()

    def livez() -> int:
        with Client() as client:
            return client.get(f"http://127.0.0.1:{port}/livez").status_code

    async with opened(blocking.create_app(port=port, mode=mode, stuck_after=1.5)) as client:
        for seconds, after, status in ((1.0, 0.5, 200), (4.0, 3.0, 503)):
            seen: list[int] = []
            prober = threading.Timer(after, lambda seen=seen: seen.append(livez()))
            prober.start()
            assert (await client.get(f"/block?seconds={seconds}")).text == f"blocked for {seconds:g} s\n"
            prober.join()
            assert seen == [status]
        deadline = time.monotonic() + 5
        while await asyncio.to_thread(livez) != 200:
            assert time.monotonic() < deadline
        assert (await client.get("/block?seconds=soon")).status_code == 400
        assert "otel_health_event_loop_lag_seconds_count" in (await client.get("/metrics")).text


async def test_the_worker_crashes_is_restarted_and_gives_up() -> None:
    """As its docstring says: it warns, fails, is given up, and by hand it is well again; metrics show each step."""
    async with opened(worker.create_app(restart_delay=0.1, max_restarts=4, fail_after=0.4)) as client:
        await answers(client, "/readyz", 200)
        await client.post("/poison")
        seen: list[str] = []

        async def readyz() -> str:
            consumer = dict((await client.get("/readyz")).json())["checks"]["consumer"][0]
            if not seen or seen[-1] != consumer["status"]:
                seen.append(consumer["status"])
            return str(consumer.get("output", ""))

        deadline = time.monotonic() + 20
        while not (said := await readyz()).startswith("gave up"):
            assert time.monotonic() < deadline, said
            await asyncio.sleep(0.002)
        assert said == "gave up: crashed 5 times, last: ValueError: cannot read order 17"
        assert seen[-2:] == ["warn", "fail"]
        metrics = (await client.get("/metrics")).text
        assert 'otel_health_check_up{component="consumer"} 0.0' in metrics
        assert 'otel_health_task_state{component="consumer",state="gave_up"} 1.0' in metrics
        assert 'otel_health_task_restarts_total{component="consumer"} 4.0' in metrics
        assert 'otel_health_task_crashes_total{component="consumer",error_type="ValueError"} 5.0' in metrics
        await client.delete("/poison")
        await client.post("/restart")
        await answers(client, "/readyz", 200)
        assert 'otel_health_task_state{component="consumer",state="running"} 1.0' in (await client.get("/metrics")).text


async def test_the_fastapi_service_over_real_servers() -> None:
    """On the PostgreSQL and the Redis of `make services`: ready, measured, and not ready for what it does not reach."""
    assert fastapi_service.DATABASE_URL.endswith(f":{shared_postgres()}/postgres")
    assert fastapi_service.REDIS_URL.endswith(f":{shared_redis()}/0")
    async with opened(fastapi_service.app) as client:
        await answers(client, "/readyz/redis", 200)  # Not critical: readyz may pass before its first run is over.
        assert await answers(client, "/readyz", 200) == {
            "status": "pass",
            "checks": {"postgres": [{"status": "pass"}], "redis": [{"status": "pass"}]},
        }
        assert (await client.get("/startupz")).status_code == 200
        assert (await client.get("/visits")).json()["visits"] >= 1
        metrics = (await client.get("/metrics")).text
        assert 'otel_health_check_up{component="postgres"} 1.0' in metrics
        assert 'otel_health_check_observation{component="postgres",observation="pool_used"} 0.0' in metrics
    assert fastapi_service.checker.names == ()


async def test_the_registered_service_and_its_replica(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its docstring says: one that loses its database fails, where both have they warn; and they leave."""
    shared_etcd()
    monkeypatch.setattr(registered, "SERVICE", f"registered-{os.getpid()}")

    async def members() -> list[str]:
        await registered.show_members()
        return sorted(line.split(" ", 1)[1].strip() for line in capsys.readouterr().out.splitlines())

    async def shows(*expected: str) -> None:
        deadline = time.monotonic() + 30
        while (seen := await members()) != list(expected):
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.02)

    ports = free_port(), free_port()
    broken = [Path(f"/tmp/{port}.broken") for port in ports]
    replicas = [
        subprocess.Popen(  # noqa: ASYNC220 - they are servers; nobody waits for them here.
            [sys.executable, "-m", "examples.registered"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(port), "SERVICE": registered.SERVICE},
        )
        for port in ports
    ]
    try:
        await shows("pass", "pass")
        broken[0].touch()
        await shows("fail database: failed", "pass")
        broken[1].touch()
        await shows("warn database: degraded", "warn database: degraded")
        for replica in replicas:
            replica.terminate()
        await shows()
    finally:
        for file in broken:
            file.unlink(missing_ok=True)
        for replica in replicas:
            replica.terminate()
            replica.wait(30)


async def test_the_main_job_over_a_real_socket(tmp_path: Path) -> None:
    """Started as `make run` starts it: it says where to look, answers there, and stops when it is told to."""
    port = "8765"
    environment = {**os.environ, "PORT": port, "ORDERS_DATABASE": str(tmp_path / "orders.sqlite3")}
    service = subprocess.Popen(  # noqa: ASYNC220 - it is a server; nobody waits for it here.
        [sys.executable, "-m", "examples.orders"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        async with AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def up() -> bool:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except OSError:
                    return False
                except Exception as error:
                    if "Connect" in type(error).__name__:
                        return False
                    raise

            deadline = time.monotonic() + 20
            while not await up():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            for path in ("/livez", "/startupz", "/healthz", "/metrics", "/readyz/database"):
                assert (await client.get(path)).status_code == 200
    finally:
        service.send_signal(signal.SIGTERM)
        output = service.communicate(timeout=10)[0]
    assert f"127.0.0.1:{port}/readyz?verbose" in output
    assert "break it" in output


def snippets() -> list[Any]:
    """The Python of every page, each block by where it begins."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append(pytest.param(match.group(1), id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("snippet", snippets())
def test_every_snippet_runs(snippet: str) -> None:
    """Each block is a whole program, and leaves nothing to be imagined."""
    if "starlette.testclient" in snippet:
        try:
            import_module("starlette.testclient")
        except RuntimeError as error:
            pytest.skip(f"older Starlettes want another client: {error}")
    program = f"{snippet}\n"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


async def test_eventually_is_bounded() -> None:
    """The tests' own waiting ends."""
    with pytest.raises(AssertionError, match="did not come true"):
        await eventually(lambda: False, seconds=0.01)
