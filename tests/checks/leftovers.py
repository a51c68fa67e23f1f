"""What many runs of a check leave behind: nothing."""

import asyncio
import gc
import logging
import sys
import time
from typing import NamedTuple

from otel_health import Checker
from tests.checks.conftest import Started
from tests.checks.every import Row
from tests.checks.held import connections, foreign_threads, open_descriptors
from tests.servers import OwnServer

PATIENCE = 15.0
TIMEOUT = 3.0
WARM_UP = 20
"""Runs before anything is measured: pools have grown to their size by then, and caches are full."""

FEW = 2
"""Tasks and such that are no leak: a client at work has now one more and now one fewer."""

BLOCKS_PER_RUN, BLOCKS = 0.5, 600
"""Blocks of memory that are no leak: the smallest is one for each run, and caches and tables grow a little."""


class Things(NamedTuple):
    """How much there is of what a run could leave behind."""

    descriptors: int
    threads: int
    tasks: int
    connections: int
    """At the servers."""
    blocks: int
    """Of Python's memory."""


class Left(NamedTuple):
    """What runs have left behind."""

    runs: int
    wrong: int
    """Runs that did not say what they should."""
    things: Things

    @property
    def nothing(self) -> bool:
        """Whether all is as it was."""
        *counted, blocks = self.things
        return self.wrong == 0 and max(counted) <= FEW and blocks <= BLOCKS + self.runs * BLOCKS_PER_RUN


async def left_by(row: Row, servers: Started, runs: int) -> Left:
    """Run a check so often; what is left when all that ends by itself has ended."""
    asked, noted = noting(servers)
    checker = Checker(timeout=TIMEOUT, ttl=1e-9, trace="never", logger=logging.Logger("silent", logging.CRITICAL))

    async def wrong(runs: int) -> int:
        found = 0
        for _ in range(runs):
            found += (await checker.run("healthz")).components["it"].status is not row.says
        return found

    def left() -> Left:
        now = things(list(asked.values()))
        return Left(runs, mistakes, Things(*(after - before for after, before in zip(now, then, strict=True))))

    # What was there before is nobody's garbage, and need not be looked through each time.
    gc.freeze()
    try:
        async with row.opened(noted) as function:
            checker.add("it", function)
            async with asyncio.timeout(PATIENCE):
                while await wrong(1):  # noqa: ASYNC110 - it waits for a server.
                    await asyncio.sleep(0.02)
            await wrong(WARM_UP)
            then = things(list(asked.values()))
            mistakes = await wrong(runs)
            # A server closes its side a little later, and a child of a run is remembered until its deadline.
            deadline = time.monotonic() + TIMEOUT + 2.0
            while not (found := left()).nothing and time.monotonic() < deadline:  # noqa: ASYNC110 - all sorts of ends.
                await asyncio.sleep(0.1)
            return found
    finally:
        gc.unfreeze()
        await checker.__aexit__(None, None, None)


def noting(servers: Started) -> tuple[dict[str, OwnServer], Started]:
    """Return the servers that are asked for, by their names, and what asks for them in place of another."""
    asked: dict[str, OwnServer] = {}

    def noted(name: str) -> OwnServer:
        return asked.setdefault(name, servers(name))

    return asked, noted


def things(servers: list[OwnServer]) -> Things:
    """What there is now."""
    gc.collect()
    # Names that a library makes up at each call stay in the interpreter's cache of attributes until that is full.
    (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()  # noqa: SLF001
    held = sum(connections(server.port) for server in servers)
    return Things(open_descriptors(), len(foreign_threads()), len(asyncio.all_tasks()), held, sys.getallocatedblocks())
