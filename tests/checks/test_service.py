"""Another service's health is understood, and services that ask each other are not caught in a circle."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from otel_health import Checker, CheckFunc, Degraded, Failed, Status
from otel_health.checks import service
from tests.checks.doors import FAULTS, Behaviour, door, fault, result, saying
from tests.doubles import eventually, passing
from tests.servers import free_port


def at(port: int, path: str = "/readyz", **options: Any) -> CheckFunc:
    """A check of a service on loopback."""
    return service.healthy(f"http://127.0.0.1:{port}{path}", **options)


@asynccontextmanager
async def served(checker: Checker, port: int, *, started: bool = True) -> AsyncIterator[None]:
    """Serve a Checker's probes, as a service of its own would."""
    app = Starlette(routes=[*checker.routes()], lifespan=checker.lifespan if started else None)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="on" if started else "off"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def quiet_checker(**options: Any) -> Checker:
    """A Checker that says nothing."""
    return Checker(logger=logging.Logger("silent", logging.CRITICAL), trace="never", **options)


def outcome(status: Status) -> CheckFunc:
    """A check that comes out so."""

    async def check() -> None:
        if status is Status.WARN:
            raise Degraded("slow: password=s3cr3t")
        if status is Status.FAIL:
            raise Failed("down: password=s3cr3t")

    return check


@pytest.mark.parametrize("path", ["/readyz", "/readyz?verbose", "/healthz", "/readyz/store"])
@pytest.mark.parametrize("status", [Status.PASS, Status.WARN, Status.FAIL])
async def test_a_real_endpoint_of_our_own(status: Status, path: str) -> None:
    """Its word is taken, in either format; what it says of its reasons is not repeated."""
    other, port = quiet_checker(), free_port()
    other.add("store", outcome(status))
    async with served(other, port, started=False):
        found = await result(at(port, path))

    # Kubernetes' text knows no warn.
    assert found.status is (Status.PASS if status is Status.WARN and "verbose" in path else status)
    assert "store" not in (found.message or "")
    assert "s3cr3t" not in (found.message or "")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"status": "pass"}', Status.PASS),
        ('{"status":"UP","groups":["liveness","readiness"]}', Status.PASS),
        ('{"details":{},"status":"ok"}', Status.PASS),
        ('{"status":"warn","output":"disk"}', Status.WARN),
        ('{"status":"DOWN"}', Status.FAIL),
        ('{"status":"error"}', Status.FAIL),
        ('{"status":"pass","checks":{"' + "x" * 5000 + '":[]}}', Status.PASS),
        ('{"checks":{"' + "x" * 5000 + '":[]},"status":"pass"}', None),
        ('{"status":"Server available","upSince":"2026-11-21T14:01:50Z","uptime":"2.9s"}', Status.PASS),
        ('{"status":"Server not available","upSince":"0001-01-01T00:00:00Z","uptime":""}', Status.FAIL),
        ('{"status":"splendid"}', None),
        ('{"status":true}', None),
        ('{"status":', None),
        ('["pass"]', None),
        ("ok", Status.PASS),
        ("[+]ping ok\n[+]etcd ok\nreadyz check passed\n", Status.PASS),
        ("[-]etcd failed: reason withheld\nreadyz check failed\n", Status.FAIL),
        ("<html>It works!</html>", None),
        ("", None),
    ],
)
async def test_what_other_endpoints_answer(body: str, status: Status | None) -> None:
    """What is no report of health fails, even with 200."""
    async with door(saying(b"HTTP/1.1 200 OK\r\n\r\n" + body.encode())) as server:
        found = await result(at(server.port))

    assert found.status is (status or Status.FAIL)
    assert (found.message or "").endswith("nothing that is known to be a report of health") is (status is None)


@pytest.mark.parametrize("code", [302, 401, 404, 500, 503])
async def test_a_status_code_that_is_no_success_fails(code: int) -> None:
    """Whatever the body says."""
    async with door(saying(f'HTTP/1.1 {code} X\r\nLocation: /\r\n\r\n{{"status":"pass"}}'.encode())) as server:
        found = await result(at(server.port))

    assert (found.status, found.message) == (Status.FAIL, f"answered {code}")


@FAULTS
async def test_a_server_that_is_not_well(behaviour: Behaviour | None, said: set[str]) -> None:
    """Whatever it does, the check ends in time and says what it was."""
    assert (await fault(at, behaviour)).refined_error_type in said


@pytest.mark.parametrize("started", [True, False], ids=["started", "on demand"])
async def test_services_that_ask_each_other(started: bool) -> None:  # noqa: FBT001
    """Each leaves its own check out of what it asks for: both become ready, and see the other fail and come back."""
    checkers = [quiet_checker(interval=0.2, timeout=2.0, ttl=0.05) for _ in range(2)]
    ports = [free_port(), free_port()]
    well = [True, True]
    for number, checker in enumerate(checkers):

        async def own(number: int = number) -> bool:
            return well[number]

        checker.add("own", own)
        checker.add("other", at(ports[1 - number], exclude={"other"}))

    async def ready(number: int) -> Status:
        begun = time.monotonic()
        found = await result(at(ports[number]))
        assert time.monotonic() - begun < 2.5
        return found.status

    async def both(first: Status, second: Status) -> None:
        for _ in range(50):
            seen = [await ready(0), await ready(1)]
            if seen == [first, second]:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"they are {seen}")

    async with served(checkers[0], ports[0], started=started), served(checkers[1], ports[1], started=started):
        await both(Status.PASS, Status.PASS)
        well[0] = False
        await both(Status.FAIL, Status.FAIL)
        assert checkers[1].report().statuses == {"own": Status.PASS, "other": Status.FAIL}
        well[0] = True
        await both(Status.PASS, Status.PASS)


async def test_without_that_they_never_become_ready() -> None:
    """Why it is there: each waits for the other's first pass."""
    checkers = [quiet_checker(interval=0.1, timeout=1.0) for _ in range(2)]
    ports = [free_port(), free_port()]
    for number, checker in enumerate(checkers):
        checker.add("own", passing())
        checker.add("other", at(ports[1 - number]))

    async with served(checkers[0], ports[0]), served(checkers[1], ports[1]):
        await asyncio.sleep(1.0)

        assert [checker.report().status for checker in checkers] == [Status.FAIL, Status.FAIL]


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("http://user:s3cr3t@orders/readyz", {}, "holds a user or password"),
        ("http://169.254.169.254/readyz", {}, "link-local"),
        ("http://orders/readyz", {"exclude": "payments"}, "must be a set of names"),
        ("http://orders/readyz", {"exclude": {"a&b"}}, "cannot name a check to exclude"),
    ],
)
def test_what_is_refused(url: str, options: dict[str, Any], reason: str) -> None:
    """At registration, and without repeating a secret."""
    with pytest.raises(ValueError, match=reason) as refused:
        service.healthy(url, **options)

    assert "s3cr3t" not in str(refused.value)
