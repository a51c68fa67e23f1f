"""Who may see more: authorisers for `authorize=`, by token and by network."""

import hashlib
import hmac
import inspect
import ipaddress
from typing import Final

from starlette.requests import Request

from otel_health.http.endpoints import Authorize

MIN_TOKEN_BYTES: Final = 16
MAX_TOKEN_BYTES: Final = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def bearer(*tokens: str) -> Authorize:
    """Return an authoriser that asks for `Authorization: Bearer <one of these tokens>` (RFC 6750, section 2.1).

    Several tokens stand beside each other while one replaces the other. What is compared, in constant time, are
    digests; the tokens themselves are not kept.

    Raises:
        ValueError: There is no token, or one is shorter than 16 bytes or longer than 4 KiB.

    Example:
        >>> checker.routes(authorize=bearer(os.environ["HEALTH_TOKEN"]))
    """
    if not tokens:
        raise ValueError("bearer: give at least one token; without one nobody could ever be let in")
    for token in tokens:
        if not isinstance(token, str) or not MIN_TOKEN_BYTES <= len(token.encode()) <= MAX_TOKEN_BYTES:
            raise ValueError(
                f"bearer: a token must be a string of {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES} bytes; "
                "secrets.token_urlsafe() makes a good one"
            )
    digests = tuple(_digest(token.encode()) for token in tokens)

    def authorize(request: Request) -> bool:
        headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if len(headers) != 1 or len(headers[0]) > MAX_TOKEN_BYTES + len("Bearer "):
            return False
        scheme, _, token = bytes(headers[0]).partition(b" ")
        given = _digest(token.strip(b" "))
        # Every one is compared, so that the time tells nothing of which was right.
        equal = [hmac.compare_digest(given, digest) for digest in digests]
        return scheme.lower() == b"bearer" and any(equal)

    return authorize


def networks(*allowed: str, trusted_hops: int = 0) -> Authorize:
    """Return an authoriser that lets in callers from these networks: an addition to a token, not a replacement.

    Without `trusted_hops` the caller is the socket's peer, and no header can say otherwise (but a server that is told
    to trust proxy headers has replaced the peer before we see it; uvicorn does so for 127.0.0.1 by default: give it
    `--no-proxy-headers`, or a token as well). With it, the service can only be reached through so many proxies of
    your own, each of which appends the address it was called from to `X-Forwarded-For`: the caller is counted from
    the right over all lines of that header, since what stands further left can be written by anyone.

    Args:
        allowed: Addresses and networks, such as `"10.0.0.0/8"` or `"::1"`.
        trusted_hops: How many proxies of your own stand before the service.

    Raises:
        ValueError: A network is none, there is none, or `trusted_hops` is no whole number from 0.
    """
    if not allowed:
        raise ValueError('networks: give at least one, such as "127.0.0.1" or "10.0.0.0/8"')
    if isinstance(trusted_hops, bool) or not isinstance(trusted_hops, int) or trusted_hops < 0:
        raise ValueError(f"networks: trusted_hops={trusted_hops!r} must be a whole number of proxies, at least 0")
    try:
        inside = tuple(ipaddress.ip_network(network) for network in allowed)
    except ValueError as error:
        raise ValueError(f'networks: {error}; give each as "127.0.0.1" or "10.0.0.0/8"') from None

    def authorize(request: Request) -> bool:
        caller = _forwarded(request, trusted_hops) if trusted_hops else _peer(request)
        return caller is not None and any(caller.version == each.version and caller in each for each in inside)

    return authorize


def every(*authorizers: Authorize) -> Authorize:
    """Return an authoriser that lets in those whom each of these lets in: `every(bearer(...), networks(...))`.

    Raises:
        ValueError: There is none, which would let in everybody.
        TypeError: One cannot be called.
    """
    if not authorizers:
        raise ValueError("every: give at least one authoriser; none would let in everybody")
    for each in authorizers:
        if not callable(each):
            raise TypeError(f"every: a {type(each).__name__} is no authoriser; pass functions, such as bearer(token)")

    async def authorize(request: Request) -> bool:
        for each in authorizers:
            answer = each(request)
            if (await answer if inspect.isawaitable(answer) else answer) is not True:
                return False
        return True

    return authorize


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _peer(request: Request) -> Address | None:
    client = request.scope.get("client")
    return _address(client[0]) if client else None  # A Unix socket has no peer, and lets nobody in.


def _forwarded(request: Request, hops: int) -> Address | None:
    lines = [bytes(value) for name, value in request.scope["headers"] if name == b"x-forwarded-for"]
    callers = b",".join(lines).decode("latin-1").split(",")
    return _address(callers[-hops].strip()) if len(callers) >= hops else None


def _address(text: str) -> Address | None:
    """An address, with or without a port; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
