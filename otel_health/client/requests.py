"""One HTTP request: to a target fixed in code, at addresses that are held against rules, with a bounded answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from otel_health.check import Failed
from otel_health.client.addresses import Address, ForbiddenAddress, Zone, innermost, literal, resolve, zone
from otel_health.client.streams import Trust, connected, require_host, require_port

BODY_BYTES: Final = 4096
"""How much of a body is read, unless more is asked for."""

HEADER_LINES: Final = 100
"""How many lines of header are read."""

_INTERIM_ANSWERS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_OURS: Final = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")


@dataclass(frozen=True, slots=True)
class Url:
    """A target, taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """The host, and the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host itself says that it is this machine."""
        address = literal(self.host)
        return self.host == "localhost" if address is None else zone(address) is Zone.LOOPBACK


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; of the body at most what was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; see `require_request`."""

    url: Url
    method: str
    headers: Mapping[str, str]
    public: bool
    accept: str
    body: bytes | None = None


def require_request(
    subject: str,
    url: object,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    public: bool = False,
    accept: str = "*/*",
) -> Request:
    """Return a request that may be sent, or refuse it without repeating anything that could be a secret."""
    target = _taken_apart(subject, url)
    if not method or not set(method) <= _TOKEN:
        raise ValueError(f"{subject}: method={method!r} is no HTTP method; write it like GET")
    for name, value in (headers or {}).items():
        if not name or not set(name) <= _TOKEN or name.lower() in _OURS:
            raise ValueError(f"{subject}: {name!r} cannot be set as a header; it is ill-formed, or the check's own")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{subject}: the value of header {name!r} must be printable ASCII, on one line")
    address = literal(target.host)
    if address is not None:
        try:
            _permit(target, (address,), None, public=public)
        except ForbiddenAddress as error:
            raise ValueError(f"{subject}: {error}") from None
    return Request(target, method, dict(headers or {}), public, accept)


async def ask(
    request: Request,
    trust: Trust,
    *,
    redirects: int = 0,
    read_body: bool = False,
    body_bytes: int = BODY_BYTES,
    skipped: int = 0,
) -> Answer:
    """Send the request on a connection of its own and return what is answered.

    Each address is resolved once, held against the rules, and then connected to: a name that changes its mind in
    between changes nothing. A redirect is followed only as often as it is asked for, from GET and HEAD, not from
    https to http, and to another host or port only at a public address and without the headers given.

    Of a name's addresses those that are `skipped` are asked last: one that accepts and never answers hides the others.

    Raises:
        ForbiddenAddress: The target led where a check never connects.
        OSError: The name did not resolve, nobody accepted, or the certificate was not believed.
        Failed: What came back is no answer, or a redirect that is not followed.
    """
    url, headers = request.url, request.headers
    while True:
        addresses = await resolve(url.host, url.port)
        _permit(url, addresses, request.url, public=request.public)
        tls = await trust.context() if url.scheme == "https" else None
        first = skipped % len(addresses)
        in_turn = addresses[first:] + addresses[:first]
        async with connected(in_turn, url.port, tls=tls, name=url.host) as (reader, writer):
            writer.write(_head(request, url, headers) + (request.body or b""))
            answer = await _answer(reader, request.method, body_bytes if read_body else 0)
        if not redirects or answer.status not in _REDIRECTS or "location" not in answer.headers:
            return answer
        redirects -= 1
        followed = _followed(request, url, answer.headers["location"])
        if _origin(followed) != _origin(url):
            headers = {}
        url = followed


def _followed(request: Request, url: Url, location: str) -> Url:
    if request.method not in ("GET", "HEAD"):
        raise Failed("redirected, and only GET and HEAD are followed")
    try:
        followed = _taken_apart("redirect", urljoin(str(url), location))
    except ValueError:
        raise Failed("redirected to what is no http or https URL without user and password") from None
    if (url.scheme, followed.scheme) == ("https", "http"):
        raise Failed("redirected from https to http")
    return followed


def _origin(url: Url) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port


def _permit(url: Url, addresses: tuple[Address, ...], first: Url | None, *, public: bool) -> None:
    """Refuse addresses that a check never connects to. No address is named: a message may be seen by many."""
    found = innermost(addresses)
    if found is Zone.FORBIDDEN:
        raise ForbiddenAddress("the target is link-local, reserved, or a cloud's metadata: a check never asks there")
    if found is Zone.LOOPBACK and not url.is_loopback:
        raise ForbiddenAddress("the name leads to this machine; if that is meant, write localhost or 127.0.0.1")
    if found is Zone.PUBLIC:
        return
    if public:
        raise ForbiddenAddress("the target is said to be public, and is not; leave public=True out if it is internal")
    if first is not None and (url.host, url.port) != (first.host, first.port):
        raise ForbiddenAddress("redirected to another host or port that is not public; give that as the target itself")


def _taken_apart(subject: str, url: object) -> Url:
    if not isinstance(url, str) or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(f"{subject}: the URL must be a string without spaces, backslashes or control characters")
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{subject}: the URL's host or port is ill-formed") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{subject}: the URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(f"{subject}: the URL holds a user or password; give headers={{'Authorization': ...}} instead")
    host = require_host(subject, parts.hostname)
    port = require_port(subject, _PORTS[parts.scheme] if port is None else port)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise ValueError(f"{subject}: the URL's path and query must be ASCII; percent-encode the rest")
    return Url(parts.scheme, host, port, path)


def _head(request: Request, url: Url, headers: Mapping[str, str]) -> bytes:
    own = {"Host": url.authority, "User-Agent": "otel_health", "Accept": request.accept}
    given = {name.lower() for name in headers}
    lines = [f"{request.method} {url.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in own.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Accept-Encoding: identity", "Connection: close"]
    if request.body is not None:
        lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _answer(reader: asyncio.StreamReader, method: str, body_bytes: int) -> Answer:
    for _ in range(_INTERIM_ANSWERS):
        status = _status(await _line(reader))
        headers = await _headers(reader)
        if status >= 200:
            break
    else:
        raise _rubbish()
    if not body_bytes or method == "HEAD" or status in (204, 304):
        return Answer(status, headers, b"")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return Answer(status, headers, await _chunks(reader, body_bytes))
    length = headers.get("content-length", "")
    wanted = min(int(length), body_bytes) if length.isdecimal() and len(length) < 16 else body_bytes
    return Answer(status, headers, await _at_most(reader, wanted))


def _status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit() or rest[3:4].strip():
        raise _rubbish()
    return int(rest[:3])


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(HEADER_LINES):
        line = await _line(reader)
        if not line:
            return headers
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise _rubbish()
        headers.setdefault(name.strip().lower(), value.strip())
    raise _rubbish()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError:  # The line is longer than the reader's limit.
        raise _rubbish() from None
    if not line.endswith(b"\n"):
        raise ConnectionError("the connection was closed before the answer had ended")
    return line.rstrip(b"\r\n")


async def _chunks(reader: asyncio.StreamReader, at_most: int) -> bytes:
    body = b""
    while len(body) < at_most:
        size = (await _line(reader)).partition(b";")[0].strip()
        try:
            length = int(size, 16)
        except ValueError:
            raise _rubbish() from None
        if length <= 0:
            break
        wanted = min(length, at_most - len(body))
        body += await _at_most(reader, wanted)
        if wanted == length:
            await _line(reader)
    return body


async def _at_most(reader: asyncio.StreamReader, size: int) -> bytes:
    body = b""
    while len(body) < size:
        part = await reader.read(size - len(body))
        if not part:
            break
        body += part
    return body


def _rubbish() -> Failed:
    return Failed("what came back is no HTTP")
