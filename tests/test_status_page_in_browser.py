"""The status page in a real Chromium: it lives, it fits, it can be read by everybody, and it lets nothing in."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from otel_health import Checker, Degraded, Status
from tests.browser import Served, chromium, served
from tests.doubles import Blocking, Switch, hanging, passing

LONG = "legacy-soap-gateway.of-the-northern-branch.with-a-very-long-name"
EVERY = 2000
"""Milliseconds from one answer to the next question."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests of this file."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    """A service with a component of each kind, and some whose names and messages are hard to fit and dangerous."""
    blocking = Blocking()
    checker = Checker(
        timeout=0.5,
        interval=0.2,
        service_id="orders",
        version="1.2.3",
        logger=logging.Logger("quiet", logging.CRITICAL),
    )
    checker.add("cache", lambda: {"used": 0.42, "keys": 1_234_567_890})
    checker.add("queue", degraded)
    checker.add("search", hanging(), critical=False)
    checker.add("stuck", blocking)
    checker.add(LONG, dangerous)
    checker.add("later", passing(), initial_delay=3600)
    decided = Queue[str]()
    checker.subscribe(lambda told: decided.put(told.component))
    with served(checker) as running:
        for _ in range(5):
            decided.get(timeout=30)
        yield running
        blocking.let_go.set()


async def degraded() -> None:
    """A check that warns, with as many observations as there may be."""
    raise Degraded("12,042 messages waiting", **{f"observation-number-{number}": 10.0**number for number in range(16)})


async def dangerous() -> None:
    """A check that fails with what must not become markup, and with a word that has no end."""
    raise ValueError("<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>" + "x" * 300)


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page in a context of its own, whose time is the test's; it must say nothing and ask nobody else.

    That its own address answered 503 is what a browser writes into the console whatever a page does.
    """
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(15_000)
    page = context.new_page()
    said: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    page.clock.install()
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert [text for text in said if "503 (Service Unavailable)" not in text and "ERR_" not in text] == []
    assert asked == {url}


def test_a_state_that_changes_is_shown_without_a_reload(browser: Browser) -> None:
    """It fails, warns and passes again before one's eyes, in the heading, the title and its card."""
    switch, changed = Switch(), Queue[Status]()
    checker = Checker(interval=0.05, logger=logging.Logger("quiet", logging.CRITICAL))
    checker.add("redis", switch)
    checker.add("cache", passing(), probes={"healthz"})
    checker.subscribe(lambda told: changed.put(told.after) if told.component == "redis" else None)
    with served(checker) as service, opened(browser, f"{service.url}/full/healthz") as page:
        assert changed.get(timeout=5) is Status.PASS
        page.evaluate("window.unchanged = true")
        for error, verdict, badge in (
            (ConnectionError("refused"), "Not healthy", "failing"),
            (Degraded("slow today"), "Healthy, with warnings", "warning"),
            (None, "Healthy", "passing"),
        ):
            switch.error = error
            changed.get(timeout=5)
            page.clock.run_for(EVERY)
            expect(page.get_by_role("heading", level=1)).to_have_text(verdict)
            expect(page.locator("#c-redis .badge")).to_have_text(badge)
            expect(page).to_have_title(f"{verdict}: healthz")
        assert page.evaluate("window.unchanged")


def test_what_has_not_changed_is_not_touched(browser: Browser, service: Served) -> None:
    """Else a reader would lose his place with each answer."""
    with opened(browser, f"{service.url}/names/healthz") as page:
        cards = page.locator("li").element_handles()
        with page.expect_response("**"):
            page.clock.run_for(EVERY)
        page.clock.run_for(1)
        assert [card.evaluate("node => node.isConnected") for card in cards] == [True] * 6


def test_a_service_that_is_gone_is_told_of(browser: Browser, service: Served) -> None:
    """What is shown is old then, and says so, until there are answers again."""
    with opened(browser, f"{service.url}/names/healthz", viewport={"width": 320, "height": 800}) as page:
        height = page.get_by_role("button").evaluate("node => node.offsetHeight")
        updates = page.get_by_role("complementary").get_by_role("status")
        expect(updates).to_have_text("Live")
        page.context.set_offline(True)
        page.clock.run_for(EVERY)
        expect(updates).to_have_text(re.compile("^Not up to date, it does not answer: this is from [0-9:]+ UTC$"))
        assert page.get_by_role("button").evaluate("node => node.offsetHeight") == height, "its word is in one line"
        page.context.set_offline(False)
        page.clock.run_for(2 * EVERY)
        expect(updates).to_have_text("Live")


def test_what_answers_in_its_place_is_not_believed(browser: Browser, service: Served) -> None:
    """A proxy's own 503 is no status page."""

    def proxy(route: Route) -> None:
        route.fulfill(status=503, content_type="text/html", body="<title>503</title><h1>Service unavailable</h1>")

    with opened(browser, f"{service.url}/names/healthz") as page:
        page.route("**", proxy)
        page.clock.run_for(EVERY)
        expect(page.get_by_role("complementary")).to_contain_text("it answered 503 and no status page")
        expect(page.get_by_role("heading", level=1)).to_have_text("Not healthy")


def test_one_question_at_a_time(browser: Browser, service: Served) -> None:
    """While an answer is outstanding nothing is asked, for as long as it is waited for; then it is told of."""
    held: list[Route] = []
    with opened(browser, f"{service.url}/names/healthz") as page:
        page.route("**", lambda route: held.append(route))
        with page.expect_request("**"):
            page.clock.run_for(EVERY)
        page.clock.run_for(4900)
        assert len(held) == 1
        page.clock.run_for(1000)
        expect(page.get_by_role("complementary")).to_contain_text("it does not answer")


def test_nobody_is_asked_while_nobody_looks(browser: Browser, service: Served) -> None:
    """And whoever looks again sees at once how it is."""
    asked: list[str] = []
    with opened(browser, f"{service.url}/names/healthz") as page:
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(10 * EVERY)
        assert asked == []
        with page.expect_response("**"):
            page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")


def test_it_can_be_paused_with_the_keyboard(browser: Browser, service: Served) -> None:
    """The one thing to be operated is the first that is reached, and is seen to be."""
    asked: list[str] = []
    with opened(browser, f"{service.url}/full/healthz") as page:
        page.keyboard.press("Tab")
        button = page.get_by_role("button", name="Pause")
        expect(button).to_be_focused()
        assert button.evaluate("node => getComputedStyle(node).outline").endswith("solid 3px")
        page.keyboard.press("Enter")
        expect(page.get_by_role("complementary")).to_contain_text(re.compile("Paused at [0-9:]+ UTC"))
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(10 * EVERY)
        assert asked == []
        with page.expect_response("**"):
            page.keyboard.press("Space")
        expect(page.get_by_role("button", name="Pause")).to_be_focused()
        expect(page.get_by_role("complementary").get_by_role("status")).to_have_text("Live")


@pytest.mark.parametrize(
    ("details", "width"), [("full", 320), ("full", 375), ("full", 1280), ("names", 320), ("status", 320)]
)
def test_nothing_is_cut_off(browser: Browser, service: Served, details: str, width: int) -> None:
    """However narrow the screen, and however long a name, a message or a list of observations."""
    with opened(browser, f"{service.url}/{details}/healthz", viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        cut = page.evaluate(
            "[...document.querySelectorAll('#page *:not(svg, svg *, header, main)')]"
            ".filter(each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline')"
            ".map(each => each.outerHTML.slice(0, 99))"
        )
        assert cut == []
        expect(page.get_by_role("heading", level=1)).to_be_in_viewport()


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("full/healthz", "light"),
        ("full/healthz", "dark"),
        ("names/readyz", "dark"),
        ("status/readyz", "light"),
        ("full/livez", "light"),
    ],
)
def test_everybody_can_read_it(browser: Browser, service: Served, path: str, scheme: str) -> None:
    """axe-core finds nothing, of whatever weight, in either scheme; dark is dark."""
    with opened(browser, f"{service.url}/{path}", color_scheme=scheme) as page:
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall("[0-9]+", ground)[0]) < 64) is (scheme == "dark")


def test_it_is_whole_without_a_script(browser: Browser, service: Served) -> None:
    """Everything is there, nothing that would not work is, and the browser will load it anew."""
    with opened(browser, f"{service.url}/full/healthz", java_script_enabled=False) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("Not healthy")
        assert page.get_by_role("listitem").count() == 6
        assert page.get_by_role("img", name=re.compile("^last ")).count() == 5
        expect(page.locator("meta[http-equiv=refresh]")).to_have_attribute("content", "10")
        assert page.get_by_role("button").count() == 0


def test_what_a_message_holds_is_text(browser: Browser, service: Served) -> None:
    """Also when it comes with an update."""
    with opened(browser, f"{service.url}/full/healthz") as page:
        with page.expect_response("**"):
            page.clock.run_for(EVERY)
        expect(page.locator(f"[id='c-{LONG}'] .says")).to_contain_text("<script>window.hacked = 1</script><img src=x")
        assert page.evaluate("window.hacked === undefined")
        assert page.locator("#page script, #page img").count() == 0


def test_the_policy_holds(browser: Browser, service: Served) -> None:
    """Markup that got in all the same would neither run, nor look, nor load, nor tell anybody."""
    with served(Checker()) as other, chromium_page(browser, f"{service.url}/full/healthz") as page:
        refused = page.evaluate(
            """async (elsewhere) => {
              const violated = [];
              document.addEventListener("securitypolicyviolation", (each) => violated.push(each.effectiveDirective));
              const script = document.createElement("script");
              script.textContent = "window.hacked = 1";
              const image = document.createElement("img");
              image.src = elsewhere;
              const style = document.createElement("style");
              style.textContent = "body { display: none }";
              const frame = document.createElement("iframe");
              frame.src = elsewhere;
              document.body.append(script, image, style, frame);
              document.body.setAttribute("onclick", "window.hacked = 1");
              document.body.click();
              await fetch(elsewhere).catch(() => 0);
              for (let turn = 0; turn < 500 && new Set(violated).size < 6; turn++)
                await new Promise((done) => setTimeout(done, 20));
              return [window.hacked, ...new Set(violated)].sort();
            }""",
            f"{other.url}/names/livez",
        )
        assert refused[:-1] == [
            "connect-src",
            "frame-src",
            "img-src",
            "script-src-attr",
            "script-src-elem",
            "style-src-elem",
        ]
        assert refused[-1] is None


@contextmanager
def chromium_page(browser: Browser, url: str) -> Iterator[Page]:
    """A page that may say what it likes."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
