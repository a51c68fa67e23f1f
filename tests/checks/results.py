"""What comes of a check: of one run, and in the end."""

import asyncio

from otel_health import Checker, CheckFunc, CheckResult

PATIENCE = 15.0
"""Seconds that a server may take to become what a test waits for."""


async def result_of(function: CheckFunc, *, timeout: float = 5.0) -> CheckResult:
    """Run a check once and return what came of it."""
    checker = Checker(timeout=timeout)
    checker.add("it", function)
    result = (await checker.run()).components["it"].result
    await checker.__aexit__(None, None, None)
    assert result is not None
    return result


async def becomes(status: str, function: CheckFunc) -> CheckResult:
    """Run a check until it has this status; fail if that takes too long."""
    async with asyncio.timeout(PATIENCE):
        while (result := await result_of(function)).status != status:  # noqa: ASYNC110 - it waits for a server.
            await asyncio.sleep(0.02)
    return result
