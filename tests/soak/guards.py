"""Doors: debug pages that stay closed, and tokens and addresses that nobody can forge."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import itertools
import logging
import math
import random
import statistics
import string
import time
from typing import Any, Final

from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request

from otel_health.access import bearer, networks
from otel_health.checks import http
from otel_health.debug import debug_routes
from otel_health.prometheus import PrometheusExporter
from tests.checks import ssrf
from tests.checks.island import on_island
from tests.soak.figure import Figure, scaled, silent_checker

TOKEN: Final = "correct-horse-battery-staple-0001"
PAGES: Final = ("stacks", "allocations", "profile")
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
WRONG: Final = (
    *(b"", b"Bearer", b"Bearer ", b"Basic eDp5", b"Bearer wrong", b"bearer \xff\xfe", "Bearer é中".encode()),
    *(b"Bearer " + b"x" * 1_000_000, TOKEN.encode(), b"Bearer " + TOKEN.encode()[:-1], b"Bearer \x00"),
)
INSIDE: Final = ("10.0.0.1", "127.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "[::1]:80", "10.0.0.1:80", "10.1")
SPOOFED: Final = (
    *("x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"),
    *("x-cluster-client-ip", "x-original-forwarded-for"),
)


def gate_S2(scale: float) -> Figure:
    """Debug pages: none by default, none without an authoriser, 401 for whoever has no key, one at a time."""
    exporter = PrometheusExporter()
    default = Starlette(routes=[*silent_checker().routes(), exporter.route()])
    open_by_default = [path for route in default.routes if "debug" in (path := str(getattr(route, "path", "")))]
    try:
        debug_routes(authorize=None)  # type: ignore[arg-type]
        unguarded = True
    except TypeError:
        unguarded = False
    exporter.shutdown()
    let_in, asked, alone = asyncio.run(_doors(scaled(50, scale, 10)))
    return Figure(
        "S2",
        "0 debug routes by default; none without an authoriser; 401 to all without the key; 1 profile at a time",
        f"{len(open_by_default)} routes by default; {let_in} of {asked} let in; {alone} profiles at once",
        not open_by_default and not unguarded and let_in == 0 and alone == 1,
    )


async def _doors(profiles: int) -> tuple[int, int, int]:
    silent = logging.Logger("silent", level=logging.CRITICAL)
    app = Starlette(routes=debug_routes(authorize=bearer(TOKEN), logger=silent))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service", timeout=60) as client:
        codes = [
            (await client.request(method, f"/debug/{page}", headers=[(b"authorization", header)])).status_code
            for method, page, header in itertools.product(METHODS, PAGES, WRONG)
        ]
        key = {"authorization": f"Bearer {TOKEN}"}
        asked = [client.post("/debug/profile?seconds=0.3", headers=key) for _ in range(profiles)]
        served = [answer.status_code for answer in await asyncio.gather(*asked)]
    return sum(code != 401 for code in codes), len(codes), served.count(200)


def gate_S3(scale: float) -> Figure:
    """Tokens and addresses: no wrong one is let in, none makes it raise, and the time tells nothing."""
    authorize, allowed = bearer(TOKEN), networks("10.0.0.0/8", "127.0.0.0/8", "::1", "fe80::/10")
    behind_proxy = networks("10.0.0.0/8", "127.0.0.0/8", "::1", "fe80::/10", trusted_hops=1)
    wrong = sum(authorize(_request((b"authorization", header))) is not False for header in WRONG)
    admitted = tried = 0
    for header, claim, times in itertools.product(SPOOFED, INSIDE, (1, 2)):
        lines = [(header.encode(), claim.encode())] * times
        tried += 2
        admitted += allowed(_request(*lines)) is not False
        admitted += behind_proxy(_request(*lines, (b"x-forwarded-for", b"203.0.113.9"))) is not False
    t = _welch(scaled(100_000, scale, 5_000))
    return Figure(
        "S3",
        "0 wrong tokens and 0 of >= 60 spoofed addresses let in; Welch's |t| < 4.5",
        f"{wrong} of {len(WRONG)} tokens, {admitted} of {tried} addresses let in; |t| {abs(t):.2f}",
        wrong == 0 and admitted == 0 and tried >= 60 and abs(t) < 4.5,
    )


def gate_S8(scale: float) -> Figure:
    """No request leaves the targets that are fixed in code: not by a redirect, a name, or how an address is written."""
    wrong, asked = [], 0
    for _ in range(scaled(5, scale)):
        found: Any = on_island("tests.checks.ssrf")["found"]
        for case, (passed, hosts, strangers, said) in zip(ssrf.CASES, found, strict=True):
            asked += len(hosts)
            told = ssrf.SECRET in said or ssrf.META in said
            if not set(hosts) <= set(case.allowed) or strangers or told or passed is not case.passes:
                wrong.append(case.url)
    accepted = [target for target in ssrf.REFUSED_TARGETS if _is_accepted(target)]
    return Figure(
        "S8",
        "0 escapes in >= 50 targets, redirects and names that change their minds; what is never asked is refused",
        f"{len(wrong)} escapes {wrong or ''} of {len(ssrf.CASES)} cases in {asked} requests; "
        f"{len(accepted)} of {len(ssrf.REFUSED_TARGETS)} refusable targets accepted",
        not wrong and not accepted and asked > 0 and len(ssrf.CASES) >= 50,
    )


def _is_accepted(target: str) -> bool:
    try:
        http.answers(target)
    except ValueError:
        return False
    return True


def _request(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("203.0.113.9", 4711)})


def _welch(pairs: int) -> float:
    """Welch's t between tokens that are wrong at the first byte and tokens that are wrong at the last."""
    authorize = bearer(TOKEN)
    letters = [letter for letter in string.ascii_letters if letter not in (TOKEN[0], TOKEN[-1])]
    # Many of each, made in turns, so that where one of them lies in memory tells nothing.
    asked = [
        (_request((b"authorization", f"Bearer {token}".encode())), kind)
        for letter in letters * 4
        for kind, token in enumerate((letter + TOKEN[1:], TOKEN[:-1] + letter))
    ]
    times: tuple[list[int], list[int]] = ([], [])
    while len(times[0]) < pairs:
        random.shuffle(asked)
        for request, kind in asked:
            begun = time.perf_counter_ns()
            authorize(request)
            times[kind].append(time.perf_counter_ns() - begun)
    # What the machine did meanwhile is in the slowest tenth of both.
    limit = sorted(times[0] + times[1])[len(times[0]) * 18 // 10]
    first, second = ([each for each in one if each < limit] for one in times)
    spread = statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    return (statistics.fmean(first) - statistics.fmean(second)) / math.sqrt(spread)
