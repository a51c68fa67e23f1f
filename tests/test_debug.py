"""The debug routes: closed unless opened, one at a time, bounded, and worth the look."""

import asyncio
import json
import logging
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from starlette.applications import Starlette
from starlette.requests import Request

from otel_health import Checker
from otel_health.access import bearer
from otel_health.debug import debug_routes
from tests.doubles import eventually

TOKEN = "correct-horse-battery-staple"
KEY = {"authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def service() -> AsyncIterator[AsyncClient]:
    """A service whose debug routes are opened with a token."""
    app = Starlette(routes=debug_routes(authorize=bearer(TOKEN)))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service", timeout=30) as client:
        yield client


def test_a_default_application_has_none() -> None:
    """Nothing of ours opens them unasked."""
    paths = [getattr(route, "path", "") for route in Starlette(routes=Checker().routes()).routes]

    assert not [path for path in paths if "debug" in path]


@pytest.mark.parametrize("authorize", [None, True, "token"])
def test_they_are_refused_without_an_authoriser(authorize: object) -> None:
    """There is no default, and no way to say "everybody" but a function that says so."""
    with pytest.raises(TypeError, match=f"authorize is a {type(authorize).__name__}; pass a function"):
        debug_routes(authorize=authorize)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        debug_routes()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="prefix"):
        debug_routes("debug/", authorize=bearer(TOKEN))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("page", ["stacks", "allocations", "profile"])
async def test_nobody_is_let_in_without_the_token(method: str, page: str, caplog: pytest.LogCaptureFixture) -> None:
    """401 with a constant body, whatever was sent in its place; who listens to the log hears of it."""
    caplog.set_level(logging.INFO)
    async with service() as client:
        answers = [
            await client.request(method, f"/debug/{page}", headers=headers)
            for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer " + "x" * 5000})
        ]
        answers.append(await client.request(method, f"/debug/{page}", headers=[(b"authorization", b"Bearer \xff\xfe")]))

    assert {(answer.status_code, answer.text) for answer in answers} == {
        (401, "" if method == "HEAD" else "unauthorized\n")
    }
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)
    assert "was refused" in caplog.text
    assert TOKEN not in caplog.text


async def test_an_authoriser_at_fault_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """It is said in the log; the caller hears what anybody hears. A truthy answer is not True."""

    def raising(_: Request) -> bool:
        raise LookupError("no database")

    for authorize in (raising, lambda _: 1):
        app = Starlette(routes=debug_routes(authorize=authorize))  # type: ignore[arg-type]
        async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
            assert (await client.get("/debug/stacks")).status_code == 401
    assert "authorize raised LookupError" in caplog.text


async def test_the_stacks_name_threads_and_what_tasks_await() -> None:
    """A thread that blocks and a task that waits are both found by the line they stand at."""
    let_go = threading.Event()

    def blocking_here() -> None:
        let_go.wait()

    async def waiting_here(event: asyncio.Event) -> None:
        await event.wait()

    thread = threading.Thread(target=blocking_here, name="the-blocked-one")
    thread.start()
    task = asyncio.create_task(waiting_here(asyncio.Event()), name="the-waiting-one")
    await asyncio.sleep(0)
    try:
        async with service() as client:
            answer = await client.get("/debug/stacks", headers=KEY)
    finally:
        let_go.set()
        thread.join()
        task.cancel()

    _, _, blocked = answer.text.partition("thread the-blocked-one")
    assert "in blocking_here" in blocked.partition("\nthread ")[0]
    _, _, waiting = answer.text.partition("task the-waiting-one")
    assert "waiting_here" in waiting
    assert "in Event.wait" in waiting
    assert "awaits Future" in waiting


async def test_allocations_are_traced_for_a_time_and_no_longer() -> None:
    """What grew stands on top; tracing ends with the answer."""
    kept: list[bytes] = []

    async with service() as client:
        asking = asyncio.create_task(client.post("/debug/allocations?seconds=0.3", headers=KEY))
        await eventually(tracemalloc.is_tracing)
        await asyncio.sleep(0.1)
        kept.extend(bytes(1000) for _ in range(1000))
        answer = await asking

    assert "test_debug.py" in answer.text.splitlines()[1]
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("wanted", ["text", "html", "speedscope"])
async def test_a_profile_shows_where_the_time_goes(wanted: str) -> None:
    """The busy function is found, in each format."""
    busy = True

    def spinning_here() -> None:
        deadline = asyncio.get_running_loop().time() + 0.01
        while asyncio.get_running_loop().time() < deadline:
            pass

    async def spin() -> None:
        while busy:
            spinning_here()
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    try:
        async with service() as client:
            answer = await client.post(f"/debug/profile?seconds=0.3&format={wanted}", headers=KEY)
    finally:
        busy = False
        await spinning

    assert answer.status_code == 200
    assert "spinning_here" in answer.text
    if wanted == "speedscope":
        assert json.loads(answer.text)["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    if wanted == "html":
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_one_at_a_time() -> None:
    """Of fifty that ask at once one is served; the others hear so at once, and the next may ask again."""
    async with service() as client:
        asked = [client.post("/debug/profile?seconds=0.2", headers=KEY) for _ in range(49)]
        asked.append(client.post("/debug/allocations?seconds=0.2", headers=KEY))
        codes = sorted(answer.status_code for answer in await asyncio.gather(*asked))
        again = await client.post("/debug/profile?seconds=0.01", headers=KEY)

    assert codes == [200] + [409] * 49
    assert again.status_code == 200


@pytest.mark.parametrize("seconds", ["31", "0", "-1", "nan", "inf", "x", ""])
async def test_longer_than_thirty_seconds_is_refused(seconds: str) -> None:
    """So is whatever is no number."""
    async with service() as client:
        answers: list[Response] = [
            await client.post(f"/debug/{page}?seconds={seconds}", headers=KEY) for page in ("profile", "allocations")
        ]

    assert [answer.status_code for answer in answers] == [400, 400]


async def test_every_use_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    """Who asked for what."""
    async with service() as client:
        await client.get("/debug/stacks", headers=KEY)

    (record,) = [record for record in caplog.records if "debug:" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "debug: 127.0.0.1 asked for stacks"


async def test_a_profile_is_asked_for_by_post() -> None:
    """A link or an image in somebody's browser starts none."""
    async with service() as client:
        assert (await client.get("/debug/profile", headers=KEY)).status_code == 405
        assert (await client.post("/debug/profile?format=pdf", headers=KEY)).status_code == 400
