"""Whatever is sent to the probes, by whichever generator: an answer of the few there are, and in time."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import importlib.util
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from otel_health import Checker
from tests.doubles import failing, passing
from tests.servers import free_port
from tests.soak.figure import Figure, scaled
from tests.soak.http import NAMES, SERVED, apps, status_of, until
from tests.soak.telemetry import Heard

ALLOWED: Final = {200, 400, 401, 403, 404, 405, 408, 414, 431, 503}

PROBES: Final = ("livez", "readyz", "startupz", "healthz")
PIECES: Final = st.sampled_from([*NAMES, *PROBES, "", ".", "..", "%2f", "%00", ";x", "//", "\r\n", "\ud800", "*"])
TARGETS: Final = st.one_of(
    st.sampled_from([f"/{probe}{below}" for probe in PROBES for below in ("", "/", *map("/{}".format, NAMES))]),
    st.lists(PIECES | st.text(max_size=8), max_size=6).map(lambda pieces: "/" + "/".join(pieces)),
)
QUERIES: Final = st.one_of(
    st.binary(max_size=64),
    st.lists(
        st.sampled_from([b"verbose", b"exclude=redis", b"exclude=", b"&", b"=", b"%", b"%ff", b"%0d%0a", b";"])
    ).map(b"&".join),
    st.integers(0, 20_000).map(lambda length: b"exclude=" + b"a" * length),
)
MEDIA: Final = st.sampled_from(
    [b"text/plain", b"application/json", b"*/*", b";q=", b"nan", b"1e999", b",", b"\xff", b"q=-1"]
)
HEADERS: Final = st.lists(
    st.tuples(
        st.sampled_from([b"accept", b"host", b"x-token", b"content-length"]),
        st.binary(max_size=40) | st.lists(MEDIA, max_size=300).map(b"".join),
    ),
    max_size=5,
)
METHODS: Final = st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "OPTIONS", "TRACE"]) | st.text("ABCxyz", min_size=1)


def gate_S5(scale: float) -> Figure:
    """Fuzz: 0 crashes, 0 unknown statuses, 0 slow answers, 0 forged log lines."""
    cases = scaled(20_000, scale)
    with asyncio.Runner() as runner:
        told, held = _generated(runner, cases)
    judged, valid = _schemathesis(scale)
    return Figure(
        "S5",
        f"only {min(ALLOWED)}..{max(ALLOWED)} of the known, <= 1 s, 0 crashes, 0 forged log lines",
        f"{told}; schemathesis: {judged}",
        held and valid,
    )


def _generated(runner: asyncio.Runner, cases: int) -> tuple[str, bool]:
    logger, heard = logging.Logger("heard", logging.DEBUG), Heard()
    logger.addHandler(heard)
    checker = Checker(ttl=3600.0, logger=logger)
    checker.add(NAMES[0], passing())
    checker.add(NAMES[1], failing(ConnectionError("a\r\nforged")))
    checker.add(NAMES[2], passing())

    def operators(request: Request) -> bool:
        token = request.headers.get("x-token", "")
        if token.startswith("a"):
            raise ValueError(token)
        return token == "right"

    served = [
        *apps(checker).values(),
        checker.asgi(details="full"),
        checker.asgi(details="status", authorize=operators),
    ]
    runner.run(checker.run())
    statuses: dict[int, int] = {}
    crashes: list[str] = []
    slowest = 0.0

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(served) - 1), METHODS, TARGETS, QUERIES, HEADERS)
    def answered(number: int, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        nonlocal slowest
        begun = time.monotonic()
        try:
            status = runner.run(_ask(served[number], method, path, query, headers))
        except Exception as error:  # noqa: BLE001 - a crash of any kind is what is looked for.
            crashes.append(f"{type(error).__name__} at {method} {path!r}")
            return
        slowest = max(slowest, time.monotonic() - begun)
        statuses[status] = statuses.get(status, 0) + 1

    answered()
    forged = sum(bool(re.search(r"[\r\n]", record.getMessage())) for record in heard.records)
    told = f"{sum(statuses.values())} cases {dict(sorted(statuses.items()))}, slowest {slowest * 1000:.0f} ms, "
    told += f"{len(crashes)} crashes {crashes[:2] or ''}, {forged} of {len(heard.records)} log lines forged"
    return told, not crashes and statuses.keys() <= ALLOWED and slowest <= 1.0 and forged == 0


async def _ask(app: Any, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Send one request past every client and server, which would refuse most of what is generated."""
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
    assert sent[-1]["type"] == "http.response.body"
    return int(sent[0]["status"])


def _operation(*statuses: int, component: bool) -> dict[str, Any]:
    query = [
        {"name": "exclude", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
        {"name": "verbose", "in": "query", "schema": {"type": "string"}},
        {"name": "Accept", "in": "header", "schema": {"type": "string"}},
    ]
    below = {"name": "component", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    responses = {str(status): {"description": "an answer"} for status in statuses}
    return {"parameters": [*query, *([below] if component else [])], "responses": responses}


DOCUMENT: Final = {
    "openapi": "3.0.3",
    "info": {"title": "probes", "version": "1"},
    "paths": {
        f"/{probe}{below}": {
            method: _operation(200, 400, 404, 503, component=bool(below)) for method in ("get", "head")
        }
        for probe in PROBES
        for below in ("", "/{component}")
    },
}


def _schemathesis(scale: float) -> tuple[str, bool]:
    """Have schemathesis judge a real server by a document of the probes; skipped where it is not installed."""
    if importlib.util.find_spec("schemathesis") is None:
        return "not installed", True
    with tempfile.TemporaryDirectory() as name:
        port, document = free_port(), Path(name) / "openapi.json"
        document.write_text(json.dumps(DOCUMENT))
        service = subprocess.Popen([sys.executable, "-c", SERVED, str(port), str(document)])
        try:
            until(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200)
            options = ["--max-examples", str(scaled(1250, scale, 5)), "--max-response-time", "1", "--no-color"]
            options += ["--checks", "not_a_server_error,status_code_conformance,unsupported_method"]
            options += [
                "--phases",
                "coverage,fuzzing" if scale >= 0.2 else "fuzzing",
                "--url",
                f"http://127.0.0.1:{port}",
            ]
            program = "from schemathesis.cli import schemathesis; schemathesis()"
            command = [sys.executable, "-c", program, "run", str(document), *options]
            done = subprocess.run(command, capture_output=True, text=True, cwd=name)
        finally:
            service.kill()
            service.wait()
    found = re.search(r"(\d+) generated.*", done.stdout)
    return (found[0] if found else done.stdout[-300:].strip()), done.returncode == 0
