"""Authorisers: who is let in, and above all who is not."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from otel_health.access import bearer, every, networks
from otel_health.http.endpoints import Authorize

TOKEN = "correct-horse-battery-staple"


def request(*headers: tuple[str, bytes], client: tuple[str, int] | None = ("203.0.113.9", 4711)) -> Request:
    """A request with these headers from this peer."""
    raw = [(name.encode(), value) for name, value in headers]
    return Request(
        {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw, "client": client}
    )


def admitted(authorize: Authorize, asked: Request) -> Any:
    """What a plain authoriser says."""
    return authorize(asked)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_right_token_is_let_in(scheme: bytes) -> None:
    """Schemes have no case (RFC 9110, section 11.1)."""
    assert admitted(bearer(TOKEN), request(("authorization", scheme + b" " + TOKEN.encode()))) is True


def test_tokens_can_be_rotated() -> None:
    """Old and new stand beside each other."""
    authorize = bearer("the-old-token-of-yesterday", TOKEN)

    assert admitted(authorize, request(("authorization", b"Bearer the-old-token-of-yesterday"))) is True
    assert admitted(authorize, request(("authorization", b"Bearer " + TOKEN.encode()))) is True


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer  ",
        b"Bearer wrong-wrong-wrong-wrong",
        TOKEN.encode(),
        b"Basic " + TOKEN.encode(),
        b"Bearer " + TOKEN.upper().encode(),
        b"Bearer " + TOKEN.encode() + b"x",
        b"Bearer " + TOKEN.encode()[:-1],
        b"Bearer " + TOKEN.encode() + b"\x00",
        b"Bearer\t" + TOKEN.encode(),
        b"Bearer \xff\xfe\xc3\x28",
        "Bearer \u00e9\u4e2d".encode(),
        b"Bearer " + b"x" * 1_000_000,
    ],
)
def test_any_other_token_is_not(header: bytes) -> None:
    """Wrong, empty, not ASCII, a megabyte: False, and nothing is raised."""
    assert admitted(bearer(TOKEN), request(("authorization", header))) is False


def test_two_headers_are_none() -> None:
    """Whoever sends two wants one of them to be overlooked."""
    right = ("authorization", b"Bearer " + TOKEN.encode())

    assert admitted(bearer(TOKEN), request(right, right)) is False
    assert admitted(bearer(TOKEN), request()) is False


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(token: bytes) -> None:
    """Whatever a server lets through."""
    assert admitted(bearer(TOKEN), request(("authorization", token))) is False


def test_a_token_of_a_megabyte_is_not_even_digested() -> None:
    """It costs no memory beside itself."""
    authorize, asked = bearer(TOKEN), request(("authorization", b"Bearer " + b"x" * 1_000_000))
    tracemalloc.start()
    try:
        admitted(authorize, asked)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tokens", [(), ("",), ("short",), (TOKEN, "short"), ("x" * 5000,), (None,), (b"x" * 20,)])
def test_bad_tokens_are_refused_at_once(tokens: tuple[Any, ...]) -> None:
    """At start-up, without the token in the message."""
    with pytest.raises(ValueError, match="bearer: ") as refused:
        bearer(*tokens)
    assert "short" not in str(refused.value).split("or ")[0]


def test_the_tokens_are_not_kept() -> None:
    """Nothing that hangs on the authoriser holds them."""
    closure = [cell.cell_contents for cell in bearer(TOKEN).__closure__ or ()]

    assert TOKEN not in repr(closure)


# Networks.


@pytest.mark.parametrize(
    ("allowed", "peer"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.200.3.4"),
        ("10.0.0.0/8", "::ffff:10.200.3.4"),
        ("::1", "::1"),
        ("fe80::/10", "fe80::1%eth0"),
        ("2001:db8::/32", "2001:db8::7"),
    ],
)
def test_a_peer_from_an_allowed_network(allowed: str, peer: str) -> None:
    """IPv4, IPv6, IPv4 within IPv6, link-local with its zone."""
    assert admitted(networks(allowed), request(client=(peer, 1))) is True


OUTSIDE = ("203.0.113.9", 4711)
INSIDE = b"10.0.0.1"
CLAIMS = [
    INSIDE,
    b"127.0.0.1",
    b"::1",
    b"localhost",
    b"10.0.0.1, 10.0.0.1",
    b"10.0.0.1,203.0.113.9",
    b"203.0.113.9, 10.0.0.1",
    b"for=10.0.0.1",
    b'for="[::ffff:10.0.0.1]"',
    b"::ffff:10.0.0.1",
    b"::ffff:0a00:0001",
    b"0:0:0:0:0:ffff:a00:1",
    b"10.0.0.1%eth0",
    b"fe80::1%lo",
    b"10.1",
    b"167772161",
    b"0x0a000001",
    b"012.0.0.1",
    b"10.0.0.1:80",
    b"[10.0.0.1]:80",
    b'"10.0.0.1"',
    b" 10.0.0.1 ",
    b"10.0.0.1\x00",
    b"unknown",
    b"",
]
HEADERS = ["x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("claim", CLAIMS)
def test_no_header_speaks_for_the_peer(header: str, claim: bytes) -> None:
    """Without trusted proxies the socket alone counts: 150 spoofs, and each of them twice in one request."""
    authorize = networks("10.0.0.0/8", "127.0.0.0/8", "::1", "fe80::/10")

    assert admitted(authorize, request((header, claim), client=OUTSIDE)) is False
    assert admitted(authorize, request((header, claim), (header, claim), client=OUTSIDE)) is False
    assert admitted(authorize, request((header, claim), client=None)) is False


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_proxy_appends_is_what_counts(claim: bytes) -> None:
    """One trusted proxy: whatever the caller wrote itself stands further left, in the same line or in another."""
    authorize = networks("10.0.0.0/8", "127.0.0.0/8", "::1", "fe80::/10", trusted_hops=1)
    appended = b"203.0.113.9"

    one_line = request(("x-forwarded-for", claim + b", " + appended), client=("10.0.0.2", 1))
    two_lines = request(("x-forwarded-for", claim), ("x-forwarded-for", appended), client=("10.0.0.2", 1))

    assert admitted(authorize, one_line) is False
    assert admitted(authorize, two_lines) is False


def test_hops_are_counted_from_the_right() -> None:
    """Two proxies of our own: the caller is the last but one."""
    authorize = networks("192.0.2.7", trusted_hops=2)

    assert admitted(authorize, request(("x-forwarded-for", b"6.6.6.6, 192.0.2.7, 10.0.0.3"))) is True
    assert admitted(authorize, request(("x-forwarded-for", b"192.0.2.7, 6.6.6.6, 10.0.0.3"))) is False
    assert admitted(authorize, request(("x-forwarded-for", b"192.0.2.7"))) is False
    assert admitted(authorize, request()) is False


def test_a_port_or_brackets_do_no_harm() -> None:
    """As some proxies write it."""
    authorize = networks("192.0.2.7", "2001:db8::7", trusted_hops=1)

    assert admitted(authorize, request(("x-forwarded-for", b"192.0.2.7:4711"))) is True
    assert admitted(authorize, request(("x-forwarded-for", b"[2001:db8::7]:4711"))) is True


def test_bad_networks_are_refused_at_once() -> None:
    """At start-up, with a word on what would be right."""
    with pytest.raises(ValueError, match="give at least one"):
        networks()
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        networks("10.0.0.300")
    with pytest.raises(ValueError, match=r"networks: 10\.0\.0\.1/8 has host bits set; give each as"):
        networks("10.0.0.1/8")
    for hops in (-1, True, 1.5):
        with pytest.raises(ValueError, match="trusted_hops"):
            networks("10.0.0.1", trusted_hops=hops)  # type: ignore[arg-type]


async def test_every_one_of_them_must_agree() -> None:
    """A token from the wrong network, and the right network without a token, are both outside."""
    authorize = every(bearer(TOKEN), networks("203.0.113.0/24"))
    token = ("authorization", b"Bearer " + TOKEN.encode())

    async def answer(asked: Request) -> object:
        answered = authorize(asked)
        return answered if isinstance(answered, bool) else await answered

    assert await answer(request(token)) is True
    assert await answer(request(token, client=("198.51.100.1", 1))) is False
    assert await answer(request()) is False
    with pytest.raises(ValueError, match="everybody"):
        every()
    with pytest.raises(TypeError, match="every: a str is no authoriser") as caught:
        every(TOKEN)  # type: ignore[arg-type]
    assert TOKEN not in str(caught.value)
