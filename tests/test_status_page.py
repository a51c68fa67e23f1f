"""The status page as it is sent: whole without a script, and no more than may be seen."""

import asyncio
import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request

from otel_health import Checker, CheckResult, ComponentState, Degraded, ErrorType, HealthReport, Status
from otel_health.history import Particulars, remembered
from otel_health.http.render import Service
from otel_health.http.status_page import Seen, pieces
from tests.doubles import Blocking, Switch, failing, passing

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
NOW = 1_790_000_000.0
VOID = {"meta", "link", "path", "circle"}


async def get(checker: Checker, path: str = "/healthz", accept: str = BROWSER, **options: Any) -> Response:
    """One request of a browser."""
    app = Starlette(routes=checker.routes(**options))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        return await client.get(path, headers={"accept": accept})


class Read(HTMLParser):
    """A page as its reader has it: the words in it, and whether it is well made."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what is open; what the policy would forbid is none of the page's."""
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        assert not [name for name in names if name == "style" or name.startswith("on")]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close what was opened last."""
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag not in ("b", "span", "time"):
            self.words += " "

    def handle_data(self, data: str) -> None:
        """Take in what is read."""
        if self.open and self.open[-1] not in ("style", "script"):
            self.words += data


def read(page: str) -> str:
    """The words of a page that is well made."""
    made = Read(page)
    assert made.open == []
    assert len(made.ids) == len(set(made.ids))
    return made.words


PLAIN = Particulars(critical=True, last_success=None, runs=b"")


def shown(state: ComponentState, known: Particulars = PLAIN) -> str:
    """The page of one component, redis, as it is at `NOW`."""
    report = HealthReport("healthz", state.status, {"redis": state}, float("inf"))
    return "".join(pieces(report, "full", Service(), seen=Seen(lambda _: known, NOW)))


async def degraded() -> None:
    """A check that warns."""
    raise Degraded("12 waiting", backlog=12)


async def refused() -> None:
    """A check that fails with markup in its message."""
    raise ConnectionRefusedError("db-7: <script>alert(1)</script> & \"'")


def example() -> Checker:
    """A Checker with a component of each kind."""
    checker = Checker(service_id="orders", version="1.2.3", ttl=60)
    checker.add("queue", degraded)
    checker.add("cache", passing())
    checker.add("postgres", refused)
    return checker


@pytest.mark.parametrize("probe", ["livez", "readyz", "startupz", "healthz"])
@pytest.mark.parametrize("below", ["", "/", "/postgres", "?exclude=postgres"])
async def test_every_probe_has_its_page(probe: str, below: str) -> None:
    """With the status of the JSON that stands at the same place."""
    checker = example()
    await checker.run("healthz")

    page = await get(checker, f"/{probe}{below}")

    assert page.status_code == (await get(checker, f"/{probe}{below}", "*/*")).status_code
    if page.status_code != 404:
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["vary"] == "accept"
        read(page.text)


async def test_what_asks_for_text_or_json_gets_no_page() -> None:
    """The page is for those who want HTML first."""
    for path, accept in (("/readyz?verbose", BROWSER), ("/readyz", "application/json, text/html"), ("/readyz", "*/*")):
        assert "<html" not in (await get(example(), path, accept)).text


async def test_the_policy_lets_nothing_in_but_the_pages_own() -> None:
    """One style and one script, by their hashes; no other source of anything."""
    page = await get(example())
    policy = page.headers["content-security-policy"]

    for tag in ("style", "script"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.findall(r"(?:src|href|action)=\"(?!data:)", page.text)


@pytest.mark.parametrize("path", ["/readyz", "/readyz/postgres", "/readyz?exclude=cache"])
@pytest.mark.parametrize("details", ["status", "names"])
async def test_anonymous_pages_leak_nothing(path: str, details: str) -> None:
    """No message, host, class name, time, duration, observation or service."""
    checker = example()
    await checker.run()

    page = await get(checker, path, details=details)

    for word in ("db-7", "Connection", "orders", "1.2.3", "12", "alert(", "<time", "backlog", "runs"):
        assert word not in re.sub("<(style|script)>.*?</\\1>", "", page.text, flags=re.DOTALL)
    if details == "status":
        assert "postgres" not in page.text
        assert "queue" not in page.text


async def test_an_anonymous_page_says_who_fails_and_what_that_means() -> None:
    """Names, statuses and error types, in words."""
    checker = example()
    checker.add("later", passing(), probes={"wellness"})
    await checker.run()

    assert read((await get(checker)).text) == (
        "Not healthy: healthz healthz Not healthy "
        "Of 4 components, 1 failing: postgres; 1 not known: later; 1 warning: queue. "
        "Failing 1 postgres failing The check fails. "
        "Not known 1 later pending Nothing is known of it yet. "
        "Warning 1 queue warning It works, but not as well as it should. "
        "Passing 1 cache passing"
    )
    assert read((await get(checker, "/healthz/cache")).text) == (
        "Passing: healthz/cache healthz/cache Passing Passing 1 cache passing"
    )
    assert read((await get(checker, "/livez")).text).endswith(
        "Alive No component is asked: that there is an answer is all there is to know."
    )
    assert read((await get(checker, details="status")).text) == "Not healthy: healthz healthz Not healthy"


async def test_many_who_fail_are_counted() -> None:
    """Three are named."""
    checker = Checker()
    for name in "abcde":
        checker.add(name, failing())
    await checker.run()

    assert "Of 5 components, 5 failing: a, b, c and 2 more." in read((await get(checker)).text)


async def test_what_is_left_out_is_said_and_not_believed() -> None:
    """Names that come from the request are shown as text."""
    checker = example()
    await checker.run()

    page = await get(checker, "/readyz?exclude=postgres&exclude=%3Cscript%3E")

    assert page.status_code == 200
    assert "Left out, as asked: postgres. Nothing is named <script>." in read(page.text)


async def test_the_page_with_everything() -> None:
    """Who answers, the message as text, since when, observations, and the runs in words."""
    checker = example()
    await checker.run()

    page = await get(checker, details="full")
    words = read(page.text)

    assert words.startswith("Not healthy: orders 1.2.3 healthz orders 1.2.3 healthz Not healthy Of 3 components, ")
    assert "ConnectionRefusedError: db-7: <script>alert(1)</script> & \"'" in words
    assert "queue warning 12 waiting For 0 s, since " in words
    assert "backlog 12" in words
    assert words.endswith("Times are UTC.")
    assert page.text.count("<script>") == 1
    assert re.search('aria-label="last run: 1 failing; about [0-9.]+ µs to', page.text)


RESULT = CheckResult("redis", Status.PASS, 0.0123, NOW - 5)
FAILED = RESULT._replace(
    status=Status.FAIL, error_type=ErrorType.FAILED, exception_type="ConnectionError", message="refused"
)


HUNG = FAILED._replace(error_type=ErrorType.HUNG, exception_type=None, message="an earlier run is still alive")
SILENT = FAILED._replace(exception_type=None, message=None)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ComponentState(Status.PASS, NOW, RESULT), "passing"),
        (ComponentState(Status.FAIL, NOW, FAILED, 4, ErrorType.FAILED), "failing ConnectionError: refused"),
        (ComponentState(Status.FAIL, NOW, SILENT, 1, ErrorType.FAILED), "failing The check fails."),
        (ComponentState(Status.FAIL, NOW, HUNG, 2, ErrorType.HUNG), "failing An earlier run is still alive."),
        (ComponentState(Status.PASS, NOW, FAILED, 2), "passing It works, but the last 2 runs failed: refused."),
        (
            ComponentState(Status.FAIL, NOW, RESULT, 0, ErrorType.FAILED, 1),
            "failing The check fails, though the last run passed: more have to.",
        ),
        (
            ComponentState(Status.FAIL, NOW, RESULT, 0, ErrorType.STALE),
            "stale The last result is too old to be believed.",
        ),
    ],
)
def test_what_a_state_means(state: ComponentState, words: str) -> None:
    """Thresholds are told of where the last run says otherwise."""
    assert f"redis {words} For 0 s" in read(shown(state))


@pytest.mark.parametrize(
    ("ago", "lasted"),
    [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (3600 * 5 + 130, "5 h 2 min"), (86400 * 3 + 7300, "3 d 2 h")],
)
def test_how_long_a_state_has_lasted(ago: float, lasted: str) -> None:
    """To two units at most; a wall clock that was set back makes no negative time."""
    assert f"For {lasted}, since " in read(shown(ComponentState(Status.PASS, NOW - ago, RESULT)))


def test_the_facts_of_a_component() -> None:
    """Moments in UTC, with the day where it is another."""
    failing_now = ComponentState(Status.FAIL, NOW - 200, FAILED, 4, ErrorType.FAILED)
    known = Particulars(critical=False, last_success=NOW - 86400, runs=b"")

    assert (
        "For 3 min, since 14:10:00; 4 failures in a row; last success 2026-09-20 14:13:20; not critical; "
        "checked 14:13:15, took 12.3 ms."
    ) in read(shown(failing_now, known))


def test_the_runs_are_drawn_and_told() -> None:
    """What hangs below the line did not pass; an attempt that started nothing has no height."""
    runs = b""
    for each in (RESULT, FAILED, RESULT._replace(status=Status.WARN, duration=1.0), FAILED._replace(duration=None)):
        runs = remembered(runs, each)

    page = shown(ComponentState(Status.PASS, NOW, RESULT), PLAIN._replace(runs=runs))

    assert 'aria-label="last 4 runs: 1 passing, 1 warning, 2 failing; about 11.6 ms to 741 ms"' in page
    assert '<path class="pass" d="M132 24v-10"/>' in page
    assert '<path class="warn" d="M142 27v-20"/>' in page
    assert '<path class="fail" d="M137 31v-17M147 31v-7"/>' in page


@settings(max_examples=100)
@given(
    st.text(max_size=200),
    st.text(max_size=40),
    st.sampled_from(ErrorType),
    st.sampled_from(Status),
    st.sampled_from(Status),
    st.dictionaries(
        st.from_regex("[A-Za-z0-9][A-Za-z0-9_.-]{0,10}", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=3,
    ),
    st.binary(max_size=30).map(lambda runs: bytes(each % 192 for each in runs)),
)
def test_no_words_break_the_page(
    message: str, kind: str, error: ErrorType, status: Status, last: Status, observed: dict[str, float], runs: bytes
) -> None:
    """Whatever a message holds, it stays text."""
    result = CheckResult("redis", last, 0.1, NOW, error, message, observed, kind)
    error_type = None if status is Status.PASS else error
    state = ComponentState(status, NOW - 10, result, 1, error_type)
    report = HealthReport("readyz", status, {"redis": state}, float("inf"))
    seen = Seen(lambda _: Particulars(critical=True, last_success=NOW, runs=runs), NOW)

    page = "".join(pieces(report, "full", Service(message, kind), unknown=[message], seen=seen))

    read(page)
    assert page.count("<script>") == page.count("</script>") == 1


async def test_looking_at_a_page_runs_nothing() -> None:
    """The page shows what is known; to ask is left to probes."""
    switch = Switch()
    checker = Checker(ttl=1e-9)
    checker.add("redis", switch)

    for details in ("names", "full"):
        app = Starlette(routes=checker.routes(details=details))
        async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
            for _ in range(3):
                page = await client.get("/healthz", headers={"accept": BROWSER})
                assert (page.status_code, switch.calls) == (503 if details == "names" else 200, details == "full")
        await checker.run()


async def test_an_anonymous_page_is_rendered_once_for_a_state() -> None:
    """Runs that change nothing change no byte of it."""
    switch = Switch()
    checker = Checker(ttl=1e-9)
    checker.add("redis", switch)
    endpoint = checker.handler("healthz")
    bodies: list[Any] = []

    async def send(message: Any) -> None:
        bodies.append(message.get("body"))

    async def ask() -> Any:
        scope = {"type": "http", "method": "GET", "query_string": b"", "headers": [(b"accept", BROWSER.encode())]}
        await endpoint(scope, None, send)  # type: ignore[arg-type]
        return bodies[-1]

    await checker.run()
    first = await ask()
    await checker.run()
    assert await ask() is first
    switch.error = ConnectionError("refused")
    await checker.run()
    failing_now = await ask()

    assert b"Not healthy" in failing_now
    assert b"Not healthy" not in first


async def test_a_page_with_everything_serves_all_for_a_second() -> None:
    """Unless something changes: then the next one shows it."""
    now = [1000.0]
    switch = Switch()
    checker = Checker(ttl=1e-9, clock=lambda: now[0])
    checker.add("redis", switch)
    await checker.run()
    app = Starlette(routes=checker.routes(details="full"))
    async with AsyncClient(
        transport=ASGITransport(app), base_url="http://service", headers={"accept": BROWSER}
    ) as client:

        async def runs_told() -> str:
            (told,) = re.findall('aria-label="last (.*?):', (await client.get("/healthz")).text)
            return str(told)

        await client.get("/healthz?exclude=redis")
        assert await runs_told() == "run"
        now[0] += 0.5
        await checker.run()
        assert await runs_told() == "run"
        now[0] += 1.01
        assert await runs_told() == "2 runs"
        switch.error = ConnectionError("refused")
        now[0] += 0.5
        await checker.run()
        assert await runs_told() == "3 runs"
        now[0] += 1000
        assert "stale The last result is too old to be believed." in read((await client.get("/healthz")).text)


async def test_what_one_caller_may_see_is_kept_for_nobody_else() -> None:
    """Authorised and anonymous readers take turns at one page."""

    def operators(request: Request) -> bool:
        return request.headers.get("x-token") == "right"

    checker = example()
    await checker.run()
    app = checker.asgi(authorize=operators)
    async with AsyncClient(
        transport=ASGITransport(app), base_url="http://service", headers={"accept": BROWSER}
    ) as client:
        for path in ("/healthz", "/healthz/queue", "/healthz?exclude=cache"):
            for token in ("right", "wrong", "right", "wrong"):
                page = await client.get(path, headers={"x-token": token})
                assert ("12 waiting" in page.text) is (token == "right")
                assert ("Times are UTC" in page.text) is (token == "right")


async def test_a_page_of_a_thousand_components_holds_up_nobody() -> None:
    """It is made in slices, between which the loop has its turn."""
    checker = Checker()
    for number in range(1000):
        checker.add(f"c-{number}", passing())
    await checker.run()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(others())
    page = await get(checker, details="full")
    busy.cancel()

    assert page.text.count("<li ") == 1000
    assert turns >= 20


async def test_a_hung_component_is_called_so() -> None:
    """In the page's words, for everybody."""
    blocking = Blocking()
    checker = Checker(ttl=1e-9, timeout=0.05)
    checker.add("stuck", blocking)
    await checker.run()
    assert "stuck failing The check did not end by its deadline." in read((await get(checker)).text)
    await checker.run()
    assert "stuck failing An earlier run still hangs, so no new one is started." in read((await get(checker)).text)
    blocking.let_go.set()
