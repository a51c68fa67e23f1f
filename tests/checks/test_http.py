"""A URL answers as it should, and nobody can make the check ask elsewhere."""

import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trustme

from otel_health import Checker, CheckFunc, Status
from otel_health.checks import http
from tests.checks import ssrf
from tests.checks.doors import FAULTS, Behaviour, door, fault, result, saying
from tests.checks.island import on_island
from tests.doubles import eventually
from tests.servers import OwnServer, own_nginx

AUTHORITY = trustme.CA()
TRUSTING = ssl.create_default_context()
AUTHORITY.configure_trust(TRUSTING)


@pytest.fixture(scope="module")
def nginx() -> Iterator[OwnServer]:
    """A real server; it answers "orders are well" at `/`, 204 at `/empty`, and redirects from `/moved`."""
    with own_nginx() as server:
        yield server


def at(port: int, path: str = "/", **options: Any) -> CheckFunc:
    """A check of a path on loopback."""
    return http.answers(f"http://127.0.0.1:{port}{path}", **options)


async def test_a_real_server_that_answers(nginx: OwnServer) -> None:
    """Status and body are judged."""
    passing = await result(at(nginx.port, contains="orders are well", matches=r"^orders \w+ well$"))
    empty = await result(at(nginx.port, "/empty", statuses={204}))

    assert (passing.status, empty.status) == (Status.PASS, Status.PASS)


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/nowhere", {}, "answered 404"),
        ("/empty", {"statuses": {200}}, "answered 204"),
        ("/", {"contains": "orders are ill"}, "the body does not contain what it should"),
        ("/", {"matches": "^ill"}, "the body does not match"),
        ("/moved", {}, "answered 301"),
        ("/", {"method": "POST"}, "answered 405"),
    ],
)
async def test_what_a_real_server_may_answer_wrongly(
    nginx: OwnServer, path: str, options: dict[str, Any], reason: str
) -> None:
    """The reason says what was wrong, and repeats nothing of what was answered."""
    found = await result(at(nginx.port, path, **options))

    assert (found.status, found.message) == (Status.FAIL, reason)


async def test_a_redirect_is_followed_where_that_is_asked_for(nginx: OwnServer) -> None:
    """And what it leads to is judged."""
    found = await result(at(nginx.port, "/moved", redirects=1, contains="orders"))

    assert found.status is Status.PASS


@FAULTS
async def test_a_server_that_is_not_well(behaviour: Behaviour | None, said: set[str]) -> None:
    """Whatever it does, the check ends in time and says what it was."""
    found = await fault(at, behaviour)

    assert found.status is Status.FAIL
    assert found.refined_error_type in said


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nneedle", True),
        (b"HTTP/1.0 200\r\n\r\nneedle", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nneedle", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nnee\r\n3\r\ndle\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n" + b"x" * 9000, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nneedle", True),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4090 + b"needle", True),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4091 + b"needle", False),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\nneedle", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\n\r\nneedle", False),
        (b"HTTP/1.1 2000 OK\r\n\r\nneedle", False),
        (b"HTTP/2 200\r\n\r\nneedle", False),
        (b"HTTP/1.1 OK\r\n\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\nneedle", False),
        (b"HTTP/1.1 200 OK\r\nContent-Le", False),
        (b"", False),
    ],
)
async def test_answers_well_formed_and_ill(answer: bytes, passes: bool) -> None:  # noqa: FBT001
    """The first 4 KiB of a body are read, however it is framed; what is no HTTP fails."""
    async with door(saying(answer)) as server:
        found = await result(at(server.port, contains="needle"))

    assert (found.status is Status.PASS) is passes, found.message


@pytest.mark.parametrize("name", ["localhost", "elsewhere.test"])
async def test_tls_is_verified(name: str) -> None:
    """An authority that is believed and a certificate for this name pass; anything else fails."""
    identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert(name).configure_cert(identity)
    async with door(saying(b"HTTP/1.1 200 OK\r\n\r\n"), tls=identity) as server:
        url = f"https://localhost:{server.port}/"
        believing, system = await result(http.answers(url, context=TRUSTING)), await result(http.answers(url))

    assert believing.refined_error_type == (None if name == "localhost" else "SSLCertVerificationError")
    assert system.refined_error_type == "SSLCertVerificationError"


async def test_a_redirect_does_not_leave_tls() -> None:
    """What was asked for in secret is not asked for in the open."""
    identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost").configure_cert(identity)
    async with door(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as open_door:
        away = f"HTTP/1.1 302 Found\r\nLocation: http://localhost:{open_door.port}/\r\n\r\n".encode()
        async with door(saying(away), tls=identity) as server:
            url = f"https://localhost:{server.port}/"
            found = await result(http.answers(url, redirects=1, context=TRUSTING))

    assert (found.status, found.message) == (Status.FAIL, "redirected from https to http")
    assert open_door.visits == 0


async def test_only_what_asks_is_redirected() -> None:
    """A request that changes something is not sent twice."""
    async with door(saying(b"HTTP/1.1 307 Again\r\nLocation: /\r\n\r\n")) as server:
        found = await result(at(server.port, method="POST", redirects=1))

    assert (found.message, server.visits) == ("redirected, and only GET and HEAD are followed", 1)


def test_a_context_that_verifies_nothing_is_refused() -> None:
    """The error says what to give instead."""
    careless = ssl.create_default_context()
    careless.check_hostname = False

    with pytest.raises(ValueError, match=r"http: the context does not verify .* ssl.create_default_context"):
        http.answers("https://shop.test/", context=careless)


Change = Callable[[OwnServer], None]


@pytest.mark.parametrize("outage", [(OwnServer.kill, OwnServer.start), (OwnServer.pause, OwnServer.resume)])
async def test_a_real_server_that_goes_and_comes_back(outage: tuple[Change, Change]) -> None:
    """Killed or frozen it is noticed, and again when it is back."""
    begins, ends = outage
    with own_nginx() as server:
        checker = Checker(timeout=0.5, interval=0.2, trace="never", logger=logging.Logger("silent", logging.CRITICAL))
        checker.add("shop", at(server.port))
        async with checker:
            await eventually(lambda: checker.report().status is Status.PASS)
            begins(server)
            await eventually(lambda: checker.report().status is Status.FAIL)
            ends(server)
            await eventually(lambda: checker.report().status is Status.PASS)


async def test_a_thousand_runs_leave_nothing_open(nginx: OwnServer) -> None:
    """No descriptor of ours stays, whatever was answered."""
    check: Callable[[], Awaitable[None]] = at(nginx.port, contains="orders")  # type: ignore[assignment]
    await check()
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(1000):
        await check()

    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.fixture(scope="module")
def escapes() -> list[tuple[bool, list[str], list[str], str]]:
    """What came of every target on the island."""
    found: Any = on_island("tests.checks.ssrf")["found"]
    assert len(found) == len(ssrf.CASES)
    return list(found)


@pytest.mark.parametrize("number", range(len(ssrf.CASES)), ids=lambda number: ssrf.CASES[number].url[:60])
def test_no_target_and_no_redirect_leads_astray(
    escapes: list[tuple[bool, list[str], list[str], str]], number: int
) -> None:
    """Only the allowed addresses are connected to, only the target sees the headers, and no address is named."""
    passed, asked, strangers, said = escapes[number]
    case = ssrf.CASES[number]

    assert set(asked) <= set(case.allowed), said
    assert passed is case.passes, said
    assert strangers == []
    assert ssrf.META not in said
    assert ssrf.SECRET not in said
    assert len(asked) <= case.redirects + 1


@pytest.mark.parametrize("target", ssrf.REFUSED_TARGETS)
def test_targets_that_are_refused_at_once(target: str) -> None:
    """At registration, in words that repeat nothing of the target."""
    with pytest.raises(ValueError, match=r"^http: ") as refused:
        http.answers(target)

    assert "secret" not in str(refused.value)
    assert target not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"statuses": ()}, "statuses=()"),
        ({"statuses": 200}, "statuses=200 must be a set of status codes"),
        ({"statuses": {99}}, "statuses={99}"),
        ({"statuses": {True}}, "statuses={True}"),
        ({"redirects": -1}, "redirects=-1"),
        ({"redirects": True}, "redirects=True"),
        ({"public": 1}, "public=1"),
        ({"method": "GET /\r\n"}, "no HTTP method"),
        ({"headers": {"X-A\r\n": "b"}}, "ill-formed"),
        ({"headers": {"Host": "elsewhere"}}, "'Host' cannot be set"),
        ({"headers": {"Authorization": "Bearer s3cr3t\r\nX: y"}}, "the value of header 'Authorization'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], reason: str) -> None:
    """The error names the culprit, never a header's value."""
    with pytest.raises(ValueError, match=r"^http: ") as refused:
        http.answers("http://shop.test/", **options)

    assert reason in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
