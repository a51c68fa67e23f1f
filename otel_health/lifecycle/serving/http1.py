"""The little of HTTP/1.1 that a prober speaks: requests without a body, answers that are sent whole."""

from typing import Final, NamedTuple

from otel_health.http.negotiation import TEXT

MAX_LINE: Final = 4096
"""Bytes of a request line."""

MAX_HEAD: Final = 8192
"""Bytes of a request line and its headers."""

_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class Request(NamedTuple):
    """What was asked."""

    method: bytes
    path: bytes
    query: bytes
    accept: bytes = b""
    zipped: bool = False
    """Whether the asker takes gzip."""
    keep_alive: bool = True
    """Whether another request may follow."""
    has_body: bool = False
    """Whether a body follows, which nobody reads here."""


class Answer(NamedTuple):
    """What is answered."""

    status: int
    media_type: str
    body: bytes
    headers: bytes = b""
    """Further header lines."""


NOT_FOUND: Final = Answer(404, TEXT, b"not found\n")
NOT_ALLOWED: Final = Answer(405, TEXT, b"method not allowed\n", b"allow: GET, HEAD\r\n")
NO_EXCLUDE: Final = Answer(400, TEXT, b"exclude is answered by the routes of the application alone\n")
LATE: Final = Answer(408, TEXT, b"the request took too long\n")
UNAVAILABLE: Final = Answer(503, TEXT, b"not available\n")

_MALFORMED: Final = Answer(400, TEXT, b"malformed request\n")
_LONG_LINE: Final = Answer(414, TEXT, f"a request line has at most {MAX_LINE} bytes\n".encode())
_LONG_HEAD: Final = Answer(431, TEXT, f"a request has at most {MAX_HEAD} bytes of headers\n".encode())


def take(buffer: bytearray) -> Request | Answer | None:
    """Take the first request off the buffer, or say what refuses it; None while it is not complete."""
    while buffer.startswith(b"\r\n"):  # What some clients send after their last body (RFC 9112, section 2.2).
        del buffer[:2]
    line_end = buffer.find(b"\r\n", 0, MAX_LINE + 2)
    if line_end < 0:
        return _LONG_LINE if len(buffer) > MAX_LINE + 1 else None
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
    if end < 0:
        return _LONG_HEAD if len(buffer) > MAX_HEAD + 3 else None
    lines = bytes(buffer[:end]).split(b"\r\n")
    del buffer[: end + 4]
    return _parsed(lines)


def _parsed(lines: list[bytes]) -> Request | Answer:
    words = lines[0].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return _MALFORMED
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name:
            return _MALFORMED
        headers.setdefault(name.lower(), value.strip())
    path, _, query = words[1].partition(b"?")
    body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
    closes = words[2] == b"HTTP/1.0" or b"close" in headers.get(b"connection", b"").lower()
    return Request(
        words[0],
        path,
        query,
        headers.get(b"accept", b""),
        b"gzip" in headers.get(b"accept-encoding", b""),
        not (body or closes),
        body,
    )


def encoded(answer: Answer, *, head: bool, keep_alive: bool) -> bytes:
    """Return the bytes of an answer, its body left out for a HEAD; nobody on the way may keep it."""
    length = len(answer.body)
    start = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
        answer.status,
        _REASONS[answer.status],
        answer.media_type.encode(),
        length,
    )
    fixed = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
    connection = b"" if keep_alive else b"connection: close\r\n"
    return b"".join((start, fixed, answer.headers, connection, b"\r\n", b"" if head else answer.body))
