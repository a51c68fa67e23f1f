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
from tests.soak.http import NAMES, apps, ask, status_of, until
from tests.soak.telemetry import Heard

ALLOWED: Final = {200, 400, 401, 403, 404, 405, 408, 414, 431, 503}

PROBES: Final = ("livez", "readyz", "startupz", "healthz")
PIECES: Final = st.sampled_from([*NAMES, *PROBES, "", ".", "..", "%2f", "%00", ";x", "//", "\r\n", "\ud800", "*"])
KNOWN: Final = [f"/{probe}{below}" for probe in PROBES for below in ("", "/", *map("/{}".format, NAMES))]
TARGETS: Final = st.one_of(
    st.sampled_from(KNOWN),
    st.sampled_from(KNOWN),
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
    [b"text/plain", b"text/html", b"application/json", b"*/*", b";q=", b"nan", b"1e999", b",", b"\xff", b"q=-1"]
)
ACCEPT: Final = st.lists(
    st.tuples(
        st.sampled_from([b"text/plain", b"text/html", b"application/json", b"*/*", b"x/y"]),
        st.sampled_from([b"", b";q=0.5", b";q=0", b";q=-1", b";q=nan", b";q=1e999", b";q=", b"; q=x", b";q=\xff"]),
    ).map(b"".join)
).map(b",".join)
HEADERS: Final = st.tuples(st.just(b"accept"), ACCEPT).map(lambda header: [header]) | st.lists(
    st.tuples(
        st.sampled_from([b"accept", b"host", b"x-token", b"content-length"]),
        st.binary(max_size=40) | st.lists(MEDIA, max_size=300).map(b"".join),
    ),
    max_size=5,
)
METHODS: Final = st.sampled_from(["GET"] * 12 + ["HEAD"] * 4 + ["POST", "OPTIONS", "TRACE", "BREW", "get", "A\r\nB"])


def gate_S5(scale: float) -> Figure:
    """Fuzz: 0 crashes, 0 unknown statuses, 0 slow answers, 0 forged log lines.

    Of 20,000 cases schemathesis makes 2,000 and sends them to a real server, some 30 to 60 in a second on two cores;
    Hypothesis makes the others, as no client would send them, and hands them to the application directly.
    """
    with asyncio.Runner() as runner:
        told, held = _generated(runner, scaled(18_000, scale))
    judged, cases, valid = _schemathesis(scaled(2000, scale, 16))
    return Figure(
        "S5",
        "20,000 cases at full length: only known statuses, <= 1 s, 0 crashes, 0 forged log lines",
        f"{told}; schemathesis: {judged}",
        held and valid and cases >= scaled(2000, scale, 16),
    )


def _generated(runner: asyncio.Runner, cases: int) -> tuple[str, bool]:
    logger, heard = logging.Logger("heard", logging.DEBUG), Heard()
    logger.addHandler(heard)
    checker = Checker(ttl=3600.0, interval=3600.0, logger=logger)
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
            status, _ = runner.run(ask(served[number], method, path, query, headers))
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


MEDIA_TYPES: Final = ["application/health+json", "text/plain", "text/html"]


def _operation(*statuses: int, component: bool) -> dict[str, Any]:
    query = [
        {"name": "exclude", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
        {"name": "verbose", "in": "query", "schema": {"type": "string"}},
        {
            "name": "Accept",
            "in": "header",
            "schema": {"anyOf": [{"type": "string", "enum": MEDIA_TYPES}, {"type": "string"}]},
        },
    ]
    names = {"anyOf": [{"type": "string", "enum": list(NAMES)}, {"type": "string", "minLength": 1}]}
    below = {"name": "component", "in": "path", "required": True, "schema": names}
    responses = {str(status): {"description": "an answer"} for status in statuses}
    return {"parameters": [*query, *([below] if component else [])], "responses": responses}


DOCUMENT: Final = {
    "openapi": "3.0.3",
    "info": {"title": "probes", "version": "1"},
    "paths": {
        f"/{probe}{below}": {
            method: _operation(200, 400, 503, *((404,) if below else ()), component=bool(below))
            for method in ("get", "head")
        }
        for probe in PROBES
        for below in ("", "/{component}")
    },
}


SERVED: Final = """
import sys, uvicorn
from tests.soak.http import subject
uvicorn.run(subject().asgi(), port=int(sys.argv[1]), log_level="critical")
"""


def _schemathesis(cases: int) -> tuple[str, int, bool]:
    """Have schemathesis judge a real server by a document of the probes; how many cases it made of it."""
    if importlib.util.find_spec("schemathesis") is None:
        return "it is not installed; type: make soak", 0, False
    each = -(-cases // (2 * len(DOCUMENT["paths"])))
    with tempfile.TemporaryDirectory() as name:
        port, document = free_port(), Path(name) / "openapi.json"
        document.write_text(json.dumps(DOCUMENT))
        service = subprocess.Popen([sys.executable, "-c", SERVED, str(port)])
        try:
            until(lambda: status_of(f"http://127.0.0.1:{port}/livez") == 200)
            # A probe's 503 is no fault of the server: the document says which statuses are meant.
            options = ["--checks", "status_code_conformance,unsupported_method", "--max-response-time", "1"]
            options += [
                "--phases",
                "coverage,fuzzing",
                "--max-examples",
                str(each),
                "--url",
                f"http://127.0.0.1:{port}",
            ]
            program = "from schemathesis.cli import schemathesis; schemathesis()"
            command = [sys.executable, "-c", program, "run", str(document), *options, "--no-color"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=name)
        finally:
            service.kill()
            service.wait()
    found = re.search(r"(\d+) generated.*", done.stdout)
    if found is None:
        return done.stdout[-300:].strip(), 0, False
    return found[0], int(found[1]), done.returncode == 0
