"""Probes over HTTP: what is asked and what is answered."""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from otel_health import Checker, Degraded, Failed
from otel_health.http import render
from otel_health.http.endpoints import Endpoints
from otel_health.http.negotiation import accepted, parse_query
from otel_health.http.render import Service
from tests.doubles import Blocking, Switch, eventually, failing, hanging, passing

SECRET = "hunter2"


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[AsyncClient]:
    """A client of this ASGI application."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as opened:
        yield opened


async def get(checker: Checker, path: str, accept: str = "*/*", **options: Any) -> Response:
    """One request to the Checker's routes."""
    async with client(Starlette(routes=checker.routes(**options))) as opened:
        return await opened.get(path, headers={"accept": accept})


async def degraded() -> None:
    """A check that warns."""
    raise Degraded("12 waiting", backlog=12)


async def refused() -> None:
    """A check that fails with a secret in its message."""
    raise ConnectionRefusedError(f"postgresql://orders:{SECRET}@db.internal:5432/orders refused")


def example() -> Checker:
    """A Checker with a component of each kind."""
    checker = Checker(service_id="orders", version="1.2.3", release_id="abc")
    checker.add("queue", degraded)
    checker.add("cache", passing())
    checker.add("postgres", refused, critical=False)
    return checker


@pytest.mark.parametrize("probe", ["livez", "readyz", "startupz", "healthz"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_every_probe_answers_with_and_without_a_slash(probe: str, slash: str) -> None:
    """Some probers count a redirect as a failure, so there is none."""
    response = await get(Checker(), f"/{probe}{slash}")

    assert (response.status_code, response.json()["status"]) == (200, "pass")


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "text/html"])
@pytest.mark.parametrize("path", ["/readyz", "/readyz/cache", "/readyz/nobody", "/readyz?exclude=a&exclude="])
async def test_every_answer_says_its_length_and_that_its_type_is_meant(accept: str, path: str) -> None:
    """A server may then keep the connection, and no browser takes one type for another."""
    response = await get(example(), path, accept)

    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["x-content-type-options"] == "nosniff"


def test_paths_that_somebody_makes_up_are_kept_nowhere() -> None:
    """There is no end of them."""
    endpoints = Endpoints(example(), "names", None)

    for number in range(100):
        endpoints.find(f"/{number}")
        endpoints.find(f"/readyz/{number}")

    assert len(endpoints._found) == 0  # noqa: SLF001 - nothing else shows what they cost.


async def test_a_page_with_everything_is_of_what_is_asked_for() -> None:
    """One component, or all but those that are left out."""
    checker = example()
    await checker.run()
    whole, one, without = [
        (await get(checker, path, "text/html", details="full")).text
        for path in ("/readyz", "/readyz/cache", "/readyz?exclude=queue")
    ]

    assert "12 waiting" in whole
    assert "12 waiting" not in one
    assert "12 waiting" not in without


@pytest.mark.parametrize(("check", "status"), [(passing(), 200), (degraded, 200), (failing(), 503), (hanging(), 503)])
async def test_the_status_code_is_the_verdict(check: Any, status: int) -> None:
    """200 for pass and warn, 503 for fail and for what is not known yet."""
    checker = Checker(answer_within=0.05)
    checker.add("it", check)

    assert (await get(checker, "/readyz")).status_code == status


async def test_health_json_says_no_more_than_names_by_default() -> None:
    """Component names, statuses and error types: what kube-apiserver tells anyone."""
    response = await get(example(), "/readyz")

    assert response.headers["content-type"] == "application/health+json"
    assert response.json() == {
        "status": "warn",
        "output": "queue: degraded, postgres: failed",
        "checks": {
            "queue": [{"status": "warn", "errorType": "degraded"}],
            "cache": [{"status": "pass"}],
            "postgres": [{"status": "fail", "errorType": "failed"}],
        },
    }


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/health+json"),
        ("", "application/health+json"),
        ("application/json", "application/json"),
        ("application/health+json", "application/health+json"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/plain;q=0.5, application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json, text/html", "application/json"),
        ("image/png", "application/health+json"),
        ("application/json;q=nonsense, text/plain;q=0.1", "text/plain; charset=utf-8"),
    ],
)
def test_the_format_is_negotiated(accept: str, media_type: str) -> None:
    """By quality; JSON where nothing that we have is wanted."""
    assert accepted(accept.encode()) == media_type


async def test_kubernetes_text() -> None:
    """The lines of kube-apiserver; reasons are withheld."""
    checker = example()
    checker.add("broker", failing())
    expected = (
        "[+]queue ok: degraded\n"
        "[+]cache ok\n"
        "[-]postgres failed: reason withheld\n"
        "[-]broker failed: reason withheld\n"
        "readyz check failed\n"
    )

    assert (await get(checker, "/readyz?verbose")).text == expected
    assert (await get(checker, "/readyz", accept="text/plain")).text == expected


async def test_details_status_is_the_verdict_alone() -> None:
    """In every format, and a component's own route does not exist."""
    checker = example()

    assert (await get(checker, "/readyz", details="status")).json() == {"status": "warn"}
    assert (await get(checker, "/readyz?verbose", details="status")).text == "readyz check passed\n"
    assert (await get(checker, "/readyz/cache", details="status")).status_code == 404
    assert "cache" not in (await get(checker, "/readyz?exclude=x&verbose", details="status")).text


async def test_details_full() -> None:
    """Times, durations, messages, observations, service and version; redacted all the same."""
    response = await get(example(), "/readyz", details="full")
    body = response.json()

    assert (body["serviceId"], body["version"], body["releaseId"]) == ("orders", "1.2.3", "abc")
    postgres = body["checks"]["postgres"][0]
    assert postgres["errorType"] == "ConnectionRefusedError"
    assert postgres["output"] == "postgresql://***@db.internal:5432/orders refused"
    assert postgres["observedUnit"] == "ms"
    assert postgres["time"].endswith("Z")
    assert body["checks"]["queue:backlog"][0]["observedValue"] == 12
    assert SECRET not in response.text


async def test_details_full_to_the_letter() -> None:
    """Every key of every kind of component, in JSON and in text."""
    stuck = Blocking()
    checker = example()
    checker.add("stuck", stuck, timeout=0.05)
    checker.add("later", passing(), probes={"wellness"})
    await checker.run("readyz")
    report = checker.report("healthz")
    time_of = {name: state.result.checked_at for name, state in report.components.items() if state.result is not None}

    def at(seconds: float) -> str:
        moment = datetime.fromtimestamp(seconds, UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    def entry(name: str, **more: object) -> dict[str, object]:
        result = report.components[name].result
        assert result is not None
        assert result.duration is not None
        timed = {"time": at(time_of[name]), "observedValue": round(result.duration * 1000, 3), "observedUnit": "ms"}
        return {"since": at(report.components[name].since), **timed, **more}

    body = render.as_json(report, "full", Service(version="1.2.3"))
    text = render.as_text(report, "full")

    assert json.loads(body) == {
        "status": "fail",
        "version": "1.2.3",
        "output": "queue: degraded, postgres: failed, stuck: timeout, later: pending",
        "checks": {
            "queue": [entry("queue", status="warn", errorType="degraded", output="12 waiting")],
            "queue:backlog": [{"observedValue": 12.0, "time": at(time_of["queue"])}],
            "cache": [entry("cache", status="pass")],
            "postgres": [
                entry(
                    "postgres",
                    status="fail",
                    errorType="ConnectionRefusedError",
                    output="postgresql://***@db.internal:5432/orders refused",
                    consecutiveFailures=1,
                )
            ],
            "stuck": [
                entry(
                    "stuck",
                    status="fail",
                    errorType="timeout",
                    output="did not end within 0.05 s",
                    consecutiveFailures=1,
                )
            ],
            "later": [{"status": "fail", "errorType": "pending", "since": at(report.components["later"].since)}],
        },
    }
    assert text.decode() == (
        "[+]queue ok: degraded: 12 waiting\n"
        "[+]cache ok\n"
        "[-]postgres failed: ConnectionRefusedError: postgresql://***@db.internal:5432/orders refused\n"
        "[-]stuck failed: timeout: did not end within 0.05 s\n"
        "[-]later failed: pending\n"
        "healthz check failed\n"
    )
    stuck.let_go.set()


@pytest.mark.parametrize("path", ["/readyz", "/readyz?verbose", "/readyz/postgres", "/readyz/postgres?verbose"])
@pytest.mark.parametrize("details", ["status", "names"])
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
async def test_anonymous_answers_leak_nothing(path: str, details: str, accept: str) -> None:
    """No message, host, user, URL, class name or traceback; sub-routes tell no more than the root."""
    checker = example()
    await checker.run()
    response = await get(checker, path, accept, details=details)

    everything = response.text + str(response.headers)
    for word in (SECRET, "db.internal", "orders", "Connection", "Traceback", "5432", "1.2.3"):
        assert word not in everything


@pytest.mark.parametrize(
    ("answer", "lifted"), [(True, True), (False, False), (1, False), ("yes", False), (None, False), ([1], False)]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_only_true_lifts_a_caller(answer: Any, lifted: bool, kind: str) -> None:  # noqa: FBT001
    """Anything but exactly True is a no."""

    def sync(_: Request) -> Any:
        return answer

    async def asynchronous(_: Request) -> Any:
        return answer

    response = await get(example(), "/readyz", authorize=sync if kind == "sync" else asynchronous)

    assert ("serviceId" in response.json()) is lifted


async def test_what_one_caller_may_see_is_kept_for_nobody_else() -> None:
    """Authorised and anonymous callers take turns at one endpoint, in every format; each gets his own answer."""

    def operators(request: Request) -> bool:
        return request.headers.get("x-token") == "right"

    async with client(example().asgi(authorize=operators)) as opened:
        for path in ("/readyz", "/readyz?verbose", "/readyz/queue", "/readyz/queue?verbose"):
            for token in ("right", "wrong", "right", "wrong"):
                response = await opened.get(path, headers={"x-token": token})
                assert ("12 waiting" in response.text) is (token == "right")
                assert ("cache" in response.text) is ("queue" not in path)


async def test_an_authoriser_at_fault_lifts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises, or never answers, closes the door, and the probe still answers in time."""

    async def never(_: Request) -> bool:
        await asyncio.Event().wait()
        return True

    def broken(_: Request) -> bool:
        raise RuntimeError(SECRET)

    async def cancelled(_: Request) -> bool:
        raise asyncio.CancelledError

    def leaving(_: Request) -> bool:
        raise SystemExit(3)

    async def leaving_later(_: Request) -> bool:
        raise SystemExit(3)

    checker = Checker(answer_within=0.2)
    checker.add("cache", passing())
    for authorize in (never, broken, cancelled, leaving, leaving_later):
        begun = time.monotonic()
        response = await get(checker, "/readyz", authorize=authorize)
        assert response.json() == {"status": "pass", "checks": {"cache": [{"status": "pass"}]}}
        assert time.monotonic() - begun < 0.5
    await checker.run()
    assert "authorize raised RuntimeError for readyz" in caplog.text
    assert "authorize raised CancelledError for readyz" in caplog.text
    assert caplog.text.count("authorize did not answer in time for readyz") == 1
    assert SECRET not in caplog.text


@pytest.mark.virtual_time
async def test_what_the_authoriser_takes_is_taken_from_the_budget() -> None:
    """A dawdling authoriser has half of the budget, and together with a hanging check no more than all of it."""
    now = asyncio.get_running_loop().time
    checker = Checker(answer_within=0.8, clock=now)
    checker.add("hangs", hanging(), timeout=5.0)

    async def asked(dawdle: float) -> tuple[float, bool]:
        async def authorize(_: Request) -> bool:
            await asyncio.sleep(dawdle)
            return True

        begun = now()
        response = await get(checker, "/readyz", authorize=authorize)
        return round(now() - begun, 6), "since" in response.text

    assert await asked(0.3) == (0.8, True)
    assert await asked(0.5) == (0.8, False)
    await checker.__aexit__(None, None, None)


async def test_one_component_by_its_own_status() -> None:
    """A failing one is 503 even when it is not critical."""
    checker = example()

    assert (await get(checker, "/readyz/postgres")).status_code == 503
    assert (await get(checker, "/readyz/queue")).status_code == 200
    assert (await get(checker, "/readyz/cache?verbose")).text == "[+]cache ok\nreadyz check passed\n"
    for app in (Starlette(routes=checker.routes()), checker.asgi()):
        async with client(app) as opened:
            assert (await opened.get("/readyz/postgres/")).status_code == 503


async def test_a_components_own_route_renews_it_alone() -> None:
    """Asking for one component neither runs nor awaits its neighbours, and is answered anew when it changes."""
    switch, neighbour = Switch(), Switch()
    checker = Checker(ttl=1e-9)
    checker.add("it", switch)
    checker.add("neighbour", neighbour)
    async with client(checker.asgi()) as opened:
        for error, status in ((None, 200), (Failed("x"), 503), (None, 200)):
            switch.error = error
            assert (await opened.get("/readyz/it")).status_code == status

    assert neighbour.calls == 0


@pytest.mark.parametrize(
    "path", ["/livez/postgres", "/readyz/nobody", "/readyz/%2e%2e", "/readyz/x;y", "/readyz/a%00b"]
)
async def test_what_a_probe_does_not_ask_is_a_constant_404(path: str) -> None:
    """Nothing of the request is reflected."""
    response = await get(example(), path)

    assert (response.status_code, response.text) == (404, "not found\n")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/readyz", "/readyz/cache", "/readyz/"])
async def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    """405, with what would be."""
    for app in (Starlette(routes=example().routes()), example().asgi()):
        async with client(app) as opened:
            response = await opened.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/readyz?verbose", "/readyz/postgres", "/readyz/nobody", "/x"])
async def test_head_is_get_without_the_body(path: str, accept: str) -> None:
    """Same status, same headers."""
    async with client(example().asgi()) as opened:
        headers = {"accept": accept}
        got, head = await opened.get(path, headers=headers), await opened.head(path, headers=headers)

    assert (got.status_code, dict(got.headers)) == (head.status_code, dict(head.headers))
    assert head.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/readyz", "/readyz?verbose", "/readyz/postgres", "/readyz/nobody", "/x"])
async def test_head_has_no_body(path: str) -> None:
    """Not a byte is handed to the server, the first time and when the answer is kept; clients would hide it."""
    target, _, query = path.partition("?")
    checker, bodies = example(), []

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    scope = {"type": "http", "path": target, "query_string": query.encode(), "headers": []}
    for method in ("GET", "HEAD", "HEAD"):
        bodies.clear()
        await checker.asgi()(scope | {"method": method}, _nothing, send)
        assert any(bodies) is (method == "GET")


async def test_exclude_leaves_components_out_and_warns_of_the_rest() -> None:
    """As kube-apiserver does it."""
    checker = Checker()
    checker.add("cache", passing())
    checker.add("broker", failing())

    response = await get(checker, "/readyz?verbose&exclude=broker&exclude=nobody")

    assert response.status_code == 200
    assert response.text == (
        "[+]cache ok\n[+]broker excluded: ok\n"
        'warn: some health checks cannot be excluded: no matches for "nobody"\nreadyz check passed\n'
    )
    body = (await get(checker, "/readyz?exclude=broker&exclude=nobody")).json()
    assert (body["status"], list(body["checks"])) == ("pass", ["cache"])
    assert body["notes"] == ['some health checks cannot be excluded: no matches for "nobody"']


async def test_exclude_is_asked_of_the_probe_itself() -> None:
    """What a probe does not ask is not in its answer, whatever else is left out."""
    checker = Checker()
    checker.add("cache", passing(), probes={"own"})
    checker.add("broker", failing())
    checker.add("queue", passing(), probes={"own"})

    body = (await get(checker, "/own?exclude=queue&exclude=a&exclude=b")).json()

    assert (body["status"], list(body["checks"])) == ("pass", ["cache"])
    assert body["notes"] == ['some health checks cannot be excluded: no matches for "a", "b"']


async def test_no_question_is_answered_with_the_answer_to_another() -> None:
    """Whatever is kept of one format or component, the next question gets what it asked for."""
    asked = {
        ("/readyz", "*/*"): (503, "application/health+json"),
        ("/readyz", "application/json"): (503, "application/json"),
        ("/readyz", "text/plain"): (503, "text/plain; charset=utf-8"),
        ("/readyz?verbose", "*/*"): (503, "text/plain; charset=utf-8"),
        ("/readyz?exclude=broker", "*/*"): (200, "application/health+json"),
        ("/readyz?exclude=broker", "text/plain"): (200, "text/plain; charset=utf-8"),
        ("/readyz?verbose&exclude=broker", "*/*"): (200, "text/plain; charset=utf-8"),
        ("/readyz/cache", "*/*"): (200, "application/health+json"),
        ("/readyz/cache?verbose", "*/*"): (200, "text/plain; charset=utf-8"),
    }
    checker = Checker(ttl=60.0)
    checker.add("cache", passing())
    checker.add("broker", failing())
    async with client(checker.asgi()) as opened:
        for (first, accepting), (second, accept) in itertools.product(asked, repeat=2):
            await opened.get(first, headers={"accept": accepting})
            response = await opened.get(second, headers={"accept": accept})
            assert (response.status_code, response.headers["content-type"]) == asked[second, accept]


async def test_exclude_joins_the_probes_own_round() -> None:
    """However many differing queries there are, one run serves all, and each is answered in time."""
    calls = 0

    async def stuck() -> None:
        nonlocal calls
        calls += 1
        await asyncio.Event().wait()

    checker = Checker(answer_within=0.2)
    checker.add("cache", passing())
    checker.add("stuck", stuck)
    begun = time.monotonic()
    async with client(checker.asgi()) as opened:
        answers = await asyncio.gather(*(opened.get(f"/readyz?exclude=stuck&exclude=x{n}") for n in range(200)))

    assert {answer.status_code for answer in answers} == {200}
    assert calls == 1
    assert time.monotonic() - begun < 1.5


async def test_details_status_is_no_oracle_for_names() -> None:
    """Excluding a name changes nothing where names are not told."""
    checker = Checker()
    checker.add("db", failing())

    assert (await get(checker, "/readyz?exclude=db", details="status")).status_code == 503
    assert (await get(checker, "/readyz?exclude=db", details="names")).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["&".join(f"exclude=c{number}" for number in range(33)), "exclude=" + "x" * 1025, "x=" + "y" * 9000],
)
async def test_too_much_to_exclude_is_a_bad_request(query: str) -> None:
    """Over 32 names or 1 KiB."""
    response = await get(example(), f"/readyz?{query}")

    assert (response.status_code, response.headers["cache-control"]) == (400, "no-store")


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"exclude=c{number}&exclude=c{number}" for number in range(32)),
        "exclude=" + "x" * 1024,
        "x=" + "y" * 8190,
        "&".join(f"c{number}=postgres" for number in range(33)),
    ],
)
async def test_what_is_just_not_too_much_is_answered(query: str) -> None:
    """To the name and the byte; a name given twice counts once, and other parameters not at all."""
    assert (await get(example(), f"/readyz?{query}")).status_code == 200


async def test_a_stale_component_is_told_as_stale_with_full_details() -> None:
    """Not with the message of a result that nobody believes any more."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0])
    checker.add("postgres", refused)
    await checker.run()
    clock[0] += 60.0
    async with checker:
        text = (await get(checker, "/readyz?verbose", details="full")).text
        entry = (await get(checker, "/readyz", details="full")).json()["checks"]["postgres"][0]

    assert (entry["status"], entry["errorType"]) == ("fail", "stale")
    assert text == "[-]postgres failed: stale\nreadyz check failed\n"


@given(st.binary(max_size=2000))
def test_no_query_breaks_the_parser(query: bytes) -> None:
    """Whatever the bytes, it is names or a refusal."""
    parsed = parse_query(query)

    assert parsed is None or (len(parsed[1]) <= 32 and sum(len(name.encode()) for name in parsed[1]) <= 1024)


@given(st.binary(max_size=300))
def test_no_accept_header_breaks_the_negotiation(header: bytes) -> None:
    """Whatever the bytes, it is one of the three."""
    assert accepted(header).split(";")[0] in {"application/health+json", "application/json", "text/plain"}


@settings(max_examples=200)
@given(
    path=st.text(max_size=60), query=st.text(max_size=200), accept=st.text(st.characters(codec="latin-1"), max_size=60)
)
def test_no_request_breaks_the_application(path: str, query: str, accept: str) -> None:
    """Every request is answered with a status that is meant, and with valid JSON or printable lines."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/readyz{path}",
        "root_path": "",
        "query_string": query.encode("utf-8", "surrogatepass"),
        "headers": [(b"accept", accept.encode("latin-1"))],
    }
    asyncio.run(_answer(scope, receive, send))

    assert sent[0]["status"] in {200, 400, 404, 503}
    body = sent[1]["body"].decode()
    if b"json" in dict(sent[0]["headers"])[b"content-type"]:
        json.loads(body)
    assert all(line.isprintable() for line in body.split("\n"))


async def _nothing() -> Any:
    raise AssertionError("a probe reads no body")


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await example().asgi()(scope, receive, send)


async def test_a_hanging_check_costs_a_probe_no_more_than_the_budget() -> None:
    """It answers within `answer_within`, and reports its hundred healthy neighbours rightly."""
    blocking = Blocking()
    checker = Checker(timeout=5.0, answer_within=0.3)
    checker.add("stuck", blocking)
    checker.add("hanging", hanging())
    for number in range(100):
        checker.add(f"healthy-{number}", passing())
    begun = time.monotonic()

    response = await get(checker, "/readyz")

    assert time.monotonic() - begun < 0.8
    checks = response.json()["checks"]
    assert [name for name, entries in checks.items() if entries[0]["status"] != "pass"] == ["stuck", "hanging"]
    assert checks["stuck"] == [{"status": "fail", "errorType": "pending"}]
    blocking.let_go.set()
    await asyncio.sleep(0)


async def test_a_thousand_concurrent_probes_cause_one_run() -> None:
    """One run serves all who ask over HTTP, too."""
    calls = 0

    async def check() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)

    checker = Checker(answer_within=30)
    checker.add("postgres", check)
    async with client(checker.asgi()) as opened:
        answers = await asyncio.gather(*(opened.get("/readyz") for _ in range(1000)))

    assert {answer.status_code for answer in answers} == {200}
    assert calls <= 2


async def test_a_client_that_disconnects_cancels_nothing() -> None:
    """The Checker owns the run."""
    entered, let_go = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        entered.set()
        await let_go.wait()

    checker = Checker()
    checker.add("postgres", check)
    request = asyncio.ensure_future(get(checker, "/readyz"))
    await entered.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    let_go.set()

    assert (await get(checker, "/readyz")).status_code == 200


async def test_an_answer_follows_the_state() -> None:
    """What is rendered once is rendered anew when the state changes, in every format."""
    switch = Switch()
    checker = Checker(ttl=1e-9)
    checker.add("redis", switch)
    for error, status in ((None, 200), (Failed("x"), 503), (Degraded("y"), 200), (ValueError(), 503), (None, 200)):
        switch.error = error
        for accept in ("*/*", "text/plain", "application/json"):
            assert (await get(checker, "/readyz", accept)).status_code == status
    async with client(checker.asgi()) as opened:
        for error, status in ((None, 200), (Failed("x"), 503), (None, 200)):
            switch.error = error
            for accept in ("*/*", "text/plain"):
                response = await opened.get("/readyz", headers={"accept": accept})
                assert response.status_code == status
        checker.add("later", failing())
        assert (await opened.get("/readyz")).status_code == 503
        checker.remove("later")
        assert (await opened.get("/readyz")).status_code == 200


async def test_a_kept_answer_is_not_served_while_it_is_renewed() -> None:
    """Where a check takes its time, the probe that finds its result too old waits for the next one."""
    healthy = True

    async def check() -> bool:
        await asyncio.sleep(0)
        return healthy

    checker = Checker(ttl=1e-9)
    checker.add("redis", check)
    async with client(checker.asgi()) as opened:
        for healthy in (True, False, True, False):
            for path in ("/readyz", "/readyz/redis"):
                assert (await opened.get(path)).status_code == (200 if healthy else 503)


async def test_a_kept_answer_expires_with_the_state() -> None:
    """A pre-rendered pass is not served when its verdict has grown stale."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0])
    checker.add("redis", passing())
    async with client(checker.asgi()) as opened:
        assert (await opened.get("/readyz")).status_code == 200
        async with checker:
            checker.engine._schedule.stop()  # noqa: SLF001 - the fault is injected.
            checker.engine._schedule.start(asyncio.get_running_loop())  # noqa: SLF001
            clock[0] += 22.9
            assert (await opened.get("/readyz")).status_code == 200
            clock[0] += 0.2
            response = await opened.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"redis": [{"status": "fail", "errorType": "stale"}]}


async def test_a_kept_answer_lives_on_with_newer_results() -> None:
    """Where nothing has changed but the time, it is served for as long as the last result is believed."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0], ttl=5.0)
    checker.add("redis", passing())
    async with client(checker.asgi()) as opened:
        for seconds in (0.0, 22.0, 2.0, 1.0, 1.0):
            clock[0] += seconds
            assert (await opened.get("/readyz")).status_code == 200


async def test_a_staleness_that_was_shown_is_taken_back() -> None:
    """After a pause of the process, a page that showed it is not served beyond the next result."""
    clock = [1000.0]
    checker = Checker(clock=lambda: clock[0], interval=10.0)
    switch = Switch()
    checker.add("redis", switch)
    async with checker, AsyncClient(transport=ASGITransport(checker.asgi()), base_url="http://service") as opened:
        await eventually(lambda: checker.report().status.up)
        clock[0] += 80
        checker.engine._expiring = True  # noqa: SLF001 - nobody makes it official before the next result comes.
        assert (await opened.get("/readyz")).status_code == 503
        checker.engine._renewals.renew(checker.engine.registry.get("redis"))  # noqa: SLF001
        await eventually(lambda: checker.report().status.up)
        assert (await opened.get("/readyz")).status_code == 200


async def mounted_in_starlette(checker: Checker) -> Any:
    return Starlette(routes=[Mount("/health", checker.asgi())])


async def mounted_in_fastapi(checker: Checker) -> Any:
    app = FastAPI()
    app.mount("/health", checker.asgi())
    return app


async def made_with_fastapi(checker: Checker) -> Any:
    return FastAPI(routes=checker.routes("/health"), lifespan=checker.lifespan)


async def routes_in_fastapi(checker: Checker) -> Any:
    app = FastAPI()
    app.router.routes.extend(checker.routes("/health"))
    return app


@pytest.mark.parametrize("build", [mounted_in_starlette, mounted_in_fastapi, made_with_fastapi, routes_in_fastapi])
async def test_it_stands_under_a_prefix(build: Callable[[Checker], Awaitable[Any]]) -> None:
    """Mounted, or as routes, in Starlette and FastAPI."""
    async with client(await build(example())) as opened:
        assert (await opened.get("/health/readyz")).status_code == 200
        assert (await opened.get("/health/readyz/")).status_code == 200
        assert (await opened.get("/health/readyz/postgres")).status_code == 503
        assert (await opened.get("/health/livez")).json() == {"status": "pass", "checks": {}}
        assert (await opened.get("/healthlivez")).status_code == 404
        assert (await opened.get("/livez")).status_code == 404


async def test_the_routes_leave_the_applications_own_alone() -> None:
    """Whatever stands behind them is reached; a probe registered later is found without new routes."""

    async def orders(_: Request) -> PlainTextResponse:
        return PlainTextResponse("orders")

    checker = Checker()
    app = Starlette(routes=[*checker.routes(), Route("/{anything:path}", orders)])
    async with client(app) as opened:
        for path in ("/", "/orders", "/livezz", "//livez", "/wellness"):
            assert (await opened.get(path)).text == "orders", path
        checker.add("mail", passing(), probes={"wellness"})
        assert (await opened.get("/wellness/mail")).json()["checks"] == {"mail": [{"status": "pass"}]}
    assert app.url_path_for("readyz") == "/readyz"
    assert app.url_path_for("readyz", component="mail") == "/readyz/mail"


async def test_a_handler_for_a_probe_of_ones_own() -> None:
    """One endpoint, wherever it is wanted; a probe nobody registered for is refused when it is made."""
    checker = Checker()
    with pytest.raises(ValueError, match="no check is registered for a probe 'wellness'"):
        checker.handler("wellness")
    checker.add("mail", failing(), probes={"wellness"})
    app = Starlette(routes=[Route("/well", checker.handler("wellness"))])
    async with client(app) as opened:
        assert (await opened.get("/well")).status_code == 503
        assert (await opened.post("/well")).status_code == 405
        checker.remove("mail")
        assert (await opened.get("/well")).status_code == 200


def test_options_that_make_no_sense_are_refused() -> None:
    """When the routes are made, not at the first request."""
    checker = Checker()
    with pytest.raises(ValueError, match="details='all' must be one of 'status', 'names', 'full'"):
        checker.routes(details="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix='health' must begin with '/'"):
        checker.routes("health")
    with pytest.raises(TypeError, match="authorize is a str; pass a function of the request, such as") as caught:
        checker.asgi(authorize="hunter2")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


async def test_the_application_opens_the_checker_when_it_is_served_by_itself() -> None:
    """A bare ASGI server starts and stops it; a failure to start is told to the server."""
    checker = Checker()
    checker.add("redis", passing())
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])
        assert checker.is_open is (message["type"] == "lifespan.startup.complete")

    await checker.asgi()({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_websocket_is_closed() -> None:
    """A probe has nothing to say there, and nobody is left waiting."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await example().asgi()({"type": "websocket", "path": "/readyz"}, _nothing, send)

    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_liveness_of_a_pending_local_check_passes() -> None:
    """A restart mends nothing that has not been decided yet."""
    blocking = Blocking()
    checker = Checker(answer_within=0.05)
    checker.add("loop", blocking, local=True, probes={"livez"})

    assert (await get(checker, "/livez")).status_code == 200
    assert (await get(checker, "/livez/loop")).status_code == 200
    assert (await get(checker, "/healthz")).status_code == 503
    blocking.let_go.set()


def test_nothing_is_logged_for_a_probe(caplog: pytest.LogCaptureFixture) -> None:
    """A steady state says nothing, however often it is asked."""
    caplog.set_level(logging.INFO)
    checker = Checker(ttl=1e-9)
    checker.add("redis", passing())

    async def main() -> None:
        for _ in range(50):
            await get(checker, "/readyz")
        await checker.run()

    asyncio.run(main())

    # Not by the logger's name: what an earlier test left to be told may be told only now.
    assert len([record for record in caplog.records if getattr(record, "otel_health.component", "") == "redis"]) == 1
