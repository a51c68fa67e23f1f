"""Methods, caching and exclusion: every answer says the same, and none says too much."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode
from urllib.request import urlopen

from httpx2 import ASGITransport, AsyncClient, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from otel_health import Checker
from tests.doubles import failing, passing
from tests.servers import REQUIRED, free_port
from tests.soak.figure import Figure, scaled, silent_checker

NAMES: Final = ("postgres", "redis", "queue")
METHODS: Final = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
PATHS: Final = (
    *("/livez", "/readyz", "/startupz", "/healthz", "/readyz/", "/readyz/postgres", "/readyz/redis/", "/healthz/queue"),
    *(
        "/readyz/nobody",
        "/readyz/a/b",
        "/readyz/a%0Ab",
        "/readyz/%00",
        "/readyz/..%2Fhealthz",
        "/nothing",
        "/",
        "/readyz?exclude=redis",
        "/readyz?verbose",
    ),
    "/readyz?" + "&".join(f"exclude=n{number}" for number in range(33)),
)


def subject() -> Checker:
    """A Checker of three components, one of which fails."""
    checker = silent_checker(ttl=3600.0, interval=3600.0)
    checker.add("postgres", passing())
    checker.add("redis", failing(ConnectionError("refused by 10.0.0.7")))
    checker.add("queue", passing(), critical=False)
    return checker


def apps(checker: Checker) -> dict[str, Any]:
    """Every way to serve it."""
    return {"asgi": checker.asgi(), "routes": Starlette(routes=checker.routes())}


def client_of(app: Any) -> AsyncClient:
    """A client of an application in this process."""
    return AsyncClient(transport=ASGITransport(app=app), base_url="http://soak")


def gate_S7(scale: float) -> Figure:
    """Caching and methods: nobody on the way may keep an answer; HEAD is GET without a body."""
    answers, wrong = asyncio.run(_methods())
    flips, stale = scaled(1000, scale, 20), None
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is not None:
        stale = _behind_nginx(nginx, flips)
    behind = "skipped: nginx is not installed: make services" if stale is None else f"{stale} stale of {flips} flips"
    return Figure(
        "S7",
        "no-store on 100 %, HEAD = GET, other methods 405 with Allow, 0 stale answers behind a cache",
        f"{answers} answers, {len(wrong)} wrong {sorted(set(wrong))[:5] or ''}; {behind}",
        not wrong and (stale == 0 or (stale is None and not os.environ.get(REQUIRED))),
    )


async def _methods() -> tuple[int, list[str]]:
    checker, wrong, answers = subject(), [], 0
    await checker.run()
    for kind, app in apps(checker).items():
        async with client_of(app) as client:
            for path in PATHS:
                if kind == "routes" and path in ("/nothing", "/"):
                    continue  # Starlette's own answer, and none of ours.
                for accept in ("*/*", "text/plain", "application/json", "text/html"):
                    headers = {"accept": accept}
                    got = await client.get(path, headers=headers)
                    head = await client.head(path, headers=headers)
                    _, body = await ask(app, "HEAD", *_parts(path), [(b"accept", accept.encode())])
                    answers += 2
                    if not (_unkept(got) and _unkept(head)):
                        wrong.append(f"{kind} {path}: may be kept")
                    if head.status_code != got.status_code or head.headers != got.headers or body:
                        wrong.append(f"{kind} HEAD {path}")
                for method in METHODS:
                    other = await client.request(method, path)
                    answers += 1
                    if not _unkept(other):
                        wrong.append(f"{kind} {method} {path}: may be kept")
                    allowed = {each.strip() for each in other.headers.get("allow", "").split(",")}
                    refused = other.status_code == 405 and allowed == {"GET", "HEAD"}
                    if path not in ("/nothing", "/") and not refused:
                        wrong.append(f"{kind} {method} {path}: {other.status_code}")
    return answers, wrong


def _parts(target: str) -> tuple[str, bytes]:
    path, _, query = target.partition("?")
    return unquote(path), query.encode()


async def ask(app: Any, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Send one request past every client and server, which would refuse or hide much of what is looked for."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("soak", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return int(sent[0]["status"]), bytes(sent[1].get("body", b""))


def _unkept(response: Response) -> bool:
    return response.headers.get("cache-control") == "no-store"


# Routes, and no lifespan: each answer is renewed on demand, and so has to follow the flag.
SERVED: Final = """
import logging, sys, uvicorn
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from otel_health import Checker

async def flag():
    return Path(sys.argv[2]).exists()

async def kept(request):
    return PlainTextResponse("", status_code=200 if await flag() else 503)

checker = Checker(ttl=1e-9, logger=logging.Logger("silent", logging.CRITICAL))
checker.add("flag", flag)
app = Starlette(routes=[*checker.routes(), Route("/kept", kept)])
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
"""
NGINX: Final = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  proxy_cache_path {directory}/cache keys_zone=probes:1m;
  server {{
    listen 127.0.0.1:{front};
    location / {{ proxy_pass http://127.0.0.1:{back}; proxy_cache probes; proxy_cache_valid any 1h; }}
  }}
}}
"""


def _behind_nginx(nginx: str, flips: int) -> int:
    """Return how many answers were stale of a service behind a proxy that caches what it may.

    That it does is shown by an answer of the service that may be kept.
    """
    stale = 0
    with tempfile.TemporaryDirectory() as name:
        directory, front, back = Path(name), free_port(), free_port()
        flag, config = directory / "flag", directory / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, front=front, back=back))
        service = subprocess.Popen([sys.executable, "-c", SERVED, str(back), str(flag)])
        proxy = subprocess.Popen([nginx, "-e", str(directory / "log"), "-c", str(config)])
        try:
            url = f"http://127.0.0.1:{front}/readyz"
            # The service first: the proxy would keep its own word on one that is not there yet.
            until(lambda: status_of(f"http://127.0.0.1:{back}/readyz") == 503)
            until(lambda: status_of(url) == 503)
            assert status_of(url.replace("readyz", "kept")) == 503, "the service does not answer as it should"
            for _ in range(flips):
                flag.unlink() if flag.exists() else flag.touch()
                stale += status_of(url) != (200 if flag.exists() else 503)
            flag.touch()
            assert status_of(url.replace("readyz", "kept")) == 503, "the proxy keeps nothing"
        finally:
            for process in (proxy, service):
                process.terminate()
                process.wait()
    return stale


def status_of(url: str) -> int:
    try:
        with urlopen(url, timeout=5) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code
    except URLError:
        return 0


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


REFUSAL: Final = b"at most 32 excluded names of 1024 bytes, 8192 bytes in all\n"
EXCLUDED: Final = st.one_of(
    st.lists(st.sampled_from(NAMES) | st.text(max_size=60) | st.text("x", min_size=200, max_size=400), max_size=40),
    # Just within and just beyond each limit: of names, of their bytes, of the query.
    st.integers(30, 34).map(lambda number: [f"n{each}" for each in range(number)]),
    st.integers(1022, 1026).map(lambda length: ["x" * length]),
    st.integers(583, 588).map(lambda times: ["redis"] * times),
)


def gate_S6(scale: float) -> Figure:
    """Exclusion and components: bounded, never reflected where nothing is known, nothing beyond the root's answer."""
    cases = scaled(5000, scale)
    wrong: list[str] = []
    counted: dict[int, int] = {}
    with asyncio.Runner() as runner:
        checker = subject()
        runner.run(checker.run())
        served = apps(checker)
        reported = json.loads(runner.run(_get(served["asgi"], "/readyz")).content)
        cards = _cards(runner.run(_get(served["asgi"], "/readyz", "text/html")))

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(sorted(served)), EXCLUDED)
        def excluded(app: str, names: list[str]) -> None:
            response = runner.run(_get(served[app], "/readyz?" + urlencode([("exclude", name) for name in names])))
            counted[response.status_code] = counted.get(response.status_code, 0) + 1
            if response.status_code != _ought_to_answer(names):
                wrong.append(f"exclude: {response.status_code}")
            if response.status_code == 400 and response.content != REFUSAL:
                wrong.append("400 reflects")

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(sorted(served)), st.sampled_from(NAMES) | st.text(min_size=1, max_size=60))
        def component(app: str, name: str) -> None:
            response = runner.run(_get(served[app], "/readyz/" + quoted(name)))
            counted[response.status_code] = counted.get(response.status_code, 0) + 1
            known = name.removesuffix("/") in NAMES
            if known:
                name = name.removesuffix("/")
                if json.loads(response.content)["checks"] != {name: reported["checks"][name]}:
                    wrong.append("a component says more than the root")
                if _cards(runner.run(_get(served[app], "/readyz/" + quoted(name), "text/html"))) != {name: cards[name]}:
                    wrong.append("a component's page says more than the root's")
            elif name.strip("/") and (response.status_code, response.content) != (404, b"not found\n"):
                wrong.append(f"unknown: {response.status_code} {name!r}")

        excluded()
        component()
    return Figure(
        "S6",
        "<= 32 names and 1 KiB, else 400; unknown: a constant 404; a component discloses no more than the root",
        f"{sum(counted.values())} requests {dict(sorted(counted.items()))}, {len(wrong)} wrong {wrong[:3] or ''}",
        not wrong and {200, 400, 404, 503} <= counted.keys(),
    )


async def _get(app: Any, target: str, accept: str = "*/*") -> Response:
    async with client_of(app) as client:
        return await client.get(target, headers={"accept": accept})


def _cards(page: Response) -> dict[str, str]:
    """What a status page says of each component."""
    return dict(re.findall('(?s)<li id="c-(.*?)"(.*?)</li>', page.text))


def quoted(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))


def _ought_to_answer(names: list[str]) -> int:
    distinct = {name for name in names if name}
    if len(distinct) > 32 or sum(len(name.encode()) for name in distinct) > 1024:
        return 400
    if len(urlencode([("exclude", name) for name in names])) > 8192:
        return 400
    return 200 if "redis" in distinct else 503
