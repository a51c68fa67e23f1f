"""Health in front of ASGI applications that know nothing of it."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from otel_health_instrumentation import HealthInstrumentor, HealthMiddleware, guard
from otel_health_instrumentation.health import PROCESS
from otel_health_instrumentation.pages import NOTHING, SEEN
from tests.doubles import failing
from tests.instrumentation.asking import asking, living
from tests.instrumentation.conftest import Instrument

PROBES = ("/livez", "/readyz", "/startupz", "/healthz")


async def hello(_: Any) -> PlainTextResponse:
    """The application's own page."""
    return PlainTextResponse("hello")


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """An application without any framework, which knows of no lifespan."""
    assert scope["type"] == "http"
    await PlainTextResponse("hello")(scope, receive, send)


def starlette() -> Starlette:
    """As its tutorial has it."""
    return Starlette(routes=[Route("/", hello)])


def fastapi() -> FastAPI:
    """As its tutorial has it."""
    app = FastAPI()
    app.get("/")(lambda: "hello")
    return app


@pytest.mark.parametrize("make", [starlette, fastapi, lambda: HealthMiddleware(raw)])
async def test_every_probe_is_there_without_a_changed_line(make: Any, instrument: Instrument) -> None:
    """And the metrics; the application goes on answering what is its own."""
    instrument()
    async with asking(make()) as client:
        assert {path: (await client.get(path)).status_code for path in PROBES} == dict.fromkeys(PROBES, 200)
        assert 'otel_health_probe_up{probe="readyz"} 1.0' in (await client.get("/metrics")).text
        assert "hello" in (await client.get("/")).text


@pytest.mark.parametrize("make", [starlette, fastapi, lambda: HealthMiddleware(raw)])
def test_servers_go_on_telling_that_it_is_asgi(make: Any, instrument: Instrument) -> None:
    """They look for a coroutine function, and uvicorn takes for a factory what it can call without anything."""
    instrument()
    app = make()
    assert inspect.iscoroutinefunction(app.__call__)
    config = uvicorn.Config(app)
    config.load()
    assert (config.interface, config.factory) == ("asgi3", False)


async def test_an_application_that_was_made_before_has_them_too(instrument: Instrument) -> None:
    """What is hooked is its class."""
    app = starlette()
    instrument()

    async with asking(app) as client:
        assert (await client.get("/readyz")).json() == {"status": "pass", "checks": {}}


async def test_health_stands_outside_of_middleware_and_authentication(instrument: Instrument) -> None:
    """A service that lets nobody in still answers its probes."""
    app = Starlette(routes=[Route("/", hello)], middleware=[Middleware(Nobody)])
    instrument()

    async with asking(app) as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/livez")).status_code == 200


class Nobody:
    """Lets nobody in."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("who are you?", 401)(scope, receive, send)


async def test_the_applications_own_route_is_left_alone(instrument: Instrument) -> None:
    """It was there first."""
    instrument()
    app = Starlette(routes=[Route("/readyz", hello), Route("/metrics", hello)])

    async with asking(app) as client:
        assert (await client.get("/readyz")).text == "hello"
        assert (await client.get("/metrics")).text == "hello"
        assert (await client.get("/livez")).json() == {"status": "pass", "checks": {}}


async def test_so_are_those_below_a_page_of_ours(instrument: Instrument) -> None:
    """That nothing of the application's stands at the page itself is no reason to take what it has there."""
    instrument().gate("database", ready=True)
    app = Starlette(routes=[Route("/healthz/ready", hello)])

    async with asking(app) as client:
        answers = {path: await client.get(f"/healthz{path}") for path in ("/ready", "/database", "/nobody", "")}
        assert answers.pop("/ready").text == "hello"
        assert {path: answer.status_code for path, answer in answers.items()} == {
            "/database": 200,
            "/nobody": 404,
            "": 200,
        }


async def test_only_the_outermost_application_answers(instrument: Instrument) -> None:
    """What is mounted in it is a part of it, and has no probes of its own."""
    instrument()
    app = Starlette(routes=[Mount("/part", starlette())])

    async with asking(app) as client:
        assert (await client.get("/part/")).text == "hello"
        assert (await client.get("/part/livez")).status_code == 404
        assert (await client.get("/livez")).status_code == 200


async def test_not_within_a_wsgi_application(instrument: Instrument) -> None:
    """What adapts one to the other hands on the request that it was given, where we have left our mark."""
    instrument()
    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def never() -> Any:
        raise AssertionError("there is no body")

    async def send(message: Any) -> None:
        sent.append(message)

    await starlette()({**scope, "wsgi_environ": {SEEN: True}}, never, send)
    assert sent[0]["status"] == 404


async def test_below_the_root_path_of_the_server(instrument: Instrument) -> None:
    """Servers leave in the path where they have mounted the application, or take it away."""
    instrument()
    app = starlette()
    async with living(app), asking(app, root_path="/api") as client:
        assert (await client.get("/api/livez")).status_code == 200
        assert (await client.get("/livez")).status_code == 200


async def test_what_the_operator_says_of_paths_and_details(instrument: Instrument) -> None:
    """A prefix, other metrics, less detail for anyone and everything for whoever has the token."""
    token = "0123456789abcdef"
    checker = instrument(prefix="/health", metrics="/health/metrics", details="status", token=token)
    checker.add("database", failing(ConnectionError("no")), critical=False)
    async with asking(starlette()) as client:
        for path in ("/livez", "/metrics"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/health/metrics")).status_code == 200
        assert (await client.get("/health/readyz")).json() == {"status": "warn"}
        full = await client.get("/health/readyz", headers={"authorization": f"Bearer {token}"})
        assert set(full.json()["checks"]) == {"database"}


async def test_the_metrics_may_stand_below_a_probe(instrument: Instrument) -> None:
    """There they are no component of it."""
    instrument(metrics="/healthz/metrics")

    async with asking(starlette()) as client:
        assert "otel_health_probe_up" in (await client.get("/healthz/metrics")).text
        assert (await client.get("/healthz")).json() == {"status": "pass", "checks": {}}


async def test_a_prefix_may_have_any_letters(instrument: Instrument) -> None:
    """They are told apart where a server has decoded them."""
    instrument(prefix="/santé")

    async with asking(starlette()) as client:
        assert [(await client.get("/sant%C3%A9/livez")).status_code for _ in range(2)] == [200, 200]


async def test_no_metrics_where_nobody_wants_them(instrument: Instrument) -> None:
    """The page is the application's then."""
    instrument(metrics="none")

    async with asking(starlette()) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/livez")).status_code == 200


async def test_checks_run_while_the_application_lives(instrument: Instrument) -> None:
    """They start once it has started, and end before it ends: what it opens is open whenever they run."""
    checker = instrument()
    seen = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        seen.append(checker.is_open)
        yield
        seen.append(checker.is_open)

    async with living(Starlette(lifespan=lifespan)):
        assert checker.is_open
    assert seen == [False, False]
    assert not checker.is_open


def test_without_a_lifespan_they_start_with_the_first_request(instrument: Instrument) -> None:
    """And with the first probe or scrape in another event loop, when theirs was closed."""
    checker = instrument()
    app = starlette()

    async def opened_by(path: str) -> bool:
        async with asking(app) as client:
            assert (await client.get(path)).status_code == 200
            return checker.is_open

    for path in ("/", "/livez", "/metrics"):
        assert asyncio.run(opened_by(path))
        assert not checker.is_open


async def test_a_life_after_the_first_one_starts_them_again(instrument: Instrument) -> None:
    """With its first request, if it says nothing of its beginning."""
    checker = instrument()
    app = starlette()
    async with living(app):
        assert checker.is_open
    async with asking(app) as client:
        await client.get("/")
        assert checker.is_open


async def test_a_life_that_ends_on_another_loop_leaves_them_running(instrument: Instrument) -> None:
    """They are the affair of the application on whose loop they run, as where a test client is used beside it."""
    checker = instrument()

    async def live() -> None:
        async with living(starlette()):
            assert checker.is_open

    async with living(starlette()):
        await asyncio.to_thread(asyncio.run, live())
        assert checker.is_open
    assert not checker.is_open


async def test_a_life_that_ends_after_it_was_left_leads_nothing_through_ours(instrument: Instrument) -> None:
    """What is instrumented by then may be another."""
    instrument()
    async with living(starlette()):
        HealthInstrumentor().uninstrument()
    assert PROCESS.looked_at == NOTHING


async def test_an_application_that_leaves_it_while_it_starts_has_no_checks(instrument: Instrument) -> None:
    """Nothing begins that nobody would end."""
    checker = instrument()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        HealthInstrumentor().uninstrument()
        yield

    async with living(Starlette(lifespan=lifespan)):
        assert not checker.is_open


def test_on_an_event_loop_that_is_not_asyncios_the_application_is_left_alone(
    instrument: Instrument, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as trio's: its lifespan and its requests pass, and one log line says so."""
    monkeypatch.setattr(guard, "_told", set())
    checker = instrument()
    app = Starlette(routes=[Route("/{rest:path}", hello)])

    def asked(scope: dict[str, Any]) -> list[Any]:
        heard = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(heard)

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(StopIteration):
            app(scope, receive, send).__await__().send(None)
        return sent

    http = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
    assert asked({"type": "lifespan", "state": {}})[-1] == {"type": "lifespan.shutdown.complete"}
    assert [asked({**http, "path": path})[1]["body"] for path in ("/", "/livez")] == [b"hello", b"hello"]
    assert not checker.is_open
    (line,) = caplog.messages
    assert "could not run on this server's event loop" in line


async def test_a_failing_check_fails_its_probe(instrument: Instrument) -> None:
    """A Checker like any other, for checks of the application's own."""
    checker = instrument(interval=0.05)
    checker.add("database", failing(ConnectionError("no")))

    async with asking(starlette()) as client:
        answer = await client.get("/readyz")
        while "pending" in answer.text:
            await asyncio.sleep(0.005)
            answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["output"] == "database: failed"
        assert (await client.get("/livez")).status_code == 200


async def test_websockets_pass(instrument: Instrument) -> None:
    """They are none of ours, wherever they are asked for."""
    instrument()
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def greet(socket: Any) -> None:
        await socket.accept()
        await socket.send_text("hello")

    app = Starlette(routes=[WebSocketRoute("/livez", greet)])
    await app({"type": "websocket", "path": "/livez", "headers": [], "query_string": b""}, receive, send)
    assert sent[1]["text"] == "hello"


async def test_a_fault_of_ours_costs_one_log_line(instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """The application gets the request as if we were not there, each time."""
    instrument()

    class OfItsOwnError(Exception):
        pass

    class Strange(Starlette):
        @property
        def routes(self) -> Any:
            raise OfItsOwnError("postgres://user:secret@host")

    app = Strange()
    app.router.routes.append(Route("/livez", hello))
    with caplog.at_level(logging.WARNING, "otel_health"):
        async with asking(app) as client:
            assert [(await client.get("/livez")).text for _ in range(3)] == ["hello"] * 3
    (line,) = caplog.messages
    assert "could not answer a probe: OfItsOwnError" in line
    assert "secret" not in line


async def test_what_still_stands_there_passes_everything_on(instrument: Instrument) -> None:
    """A middleware that a server holds is nothing any more when the process is instrumented no longer."""
    instrument()
    app = HealthMiddleware(starlette())
    async with asking(app) as client:
        assert (await client.get("/livez")).status_code == 200
        HealthInstrumentor().uninstrument()
        assert (await client.get("/livez")).status_code == 404
        assert (await client.get("/")).text == "hello"


async def test_nobody_is_ready_before_a_critical_client_was_looked_at(instrument: Instrument) -> None:
    """A server that speaks of no lifespan: those who ask first, and all at once, hear of the client just made."""
    redis = pytest.importorskip("redis")
    instrument(critical=["redis-*"])
    client = redis.Redis(host="127.0.0.1", port=1)

    async with asking(HealthMiddleware(raw)) as asked:
        answers = await asyncio.gather(*(asked.get("/readyz") for _ in range(3)))

    assert [answer.status_code for answer in answers] == [503] * 3
    assert set(answers[0].json()["checks"]) == {"redis-127.0.0.1-1-0"}
    del client
