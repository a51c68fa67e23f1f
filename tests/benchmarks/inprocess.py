"""What a probe costs in process, without a server: started, and on demand within the ttl."""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from tests.benchmarks import served
from tests.benchmarks.asked import answer, receive, request
from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.served import Constant, checker_of, nothing

NUMBERS: Final = (1, 10, 100, 1000, 10000)
PROBES: Final = 1000
"""Asked one after the other, in one slice."""
LONG: Final = 3600.0
"""Seconds between two renewals: none takes place while a probe is timed."""


def figures(*, quick: bool) -> dict[int, dict[str, dict[str, float]]]:
    """For each number of components and kind: microseconds a probe, and its rate as a share of bare Starlette's."""
    return {number: measured(number, 1 if quick else 15) for number in (NUMBERS[:3] if quick else NUMBERS)}


def measured(number: int, rounds: int) -> dict[str, dict[str, float]]:
    """Ask every kind in turns, in one loop that lives throughout."""
    with asyncio.Runner() as runner:
        started = checker_of(number, interval=LONG)
        on_demand = checker_of(number, ttl=LONG)
        opened = AsyncExitStack()
        runner.run(opened.enter_async_context(started))
        runner.run(started.run())
        runner.run(on_demand.run())
        body = runner.run(answer(started.asgi(), "/readyz"))
        apps: dict[str, tuple[ASGIApp, str]] = {
            "raw": (served.raw(number, nothing), "/readyz"),
            "asgi": (started.asgi(), "/readyz"),
            "asgi, on demand": (on_demand.asgi(), "/readyz"),
            "starlette": (served.starlette(number, nothing), "/readyz"),
            "constant": (Starlette(routes=[Route("/readyz", Constant(body))]), "/readyz"),
            "routes": (Starlette(routes=started.routes()), "/readyz"),
            "routes, text": (Starlette(routes=started.routes()), "/readyz?verbose"),
            "routes, short": (Starlette(routes=started.routes(details="status")), "/readyz"),
            "routes, on demand": (Starlette(routes=on_demand.routes()), "/readyz"),
            "routes, on demand, text": (Starlette(routes=on_demand.routes()), "/readyz?verbose"),
        }
        for app, target in apps.values():
            runner.run(answer(app, target))
        found = in_turns({kind: partial(microseconds, runner, *app) for kind, app in apps.items()}, rounds)
        runner.run(opened.aclose())
    return {kind: {"cpu_us": median(found, kind), "of_starlette": ratio(found, "starlette", kind)} for kind in apps}


def microseconds(runner: asyncio.Runner, app: ASGIApp, target: str) -> float:
    """Processor time of one probe."""
    scopes = [request(target) for _ in range(PROBES)]

    async def ask() -> float:
        begun = time.process_time()
        for scope in scopes:
            await app(scope, receive, send)
        return time.process_time() - begun

    return runner.run(ask()) / PROBES * 1e6


async def send(message: Message) -> None:
    """Take what the application sends."""
