"""The process that answers while the main one cannot: it reads a slate, and ends with its parent.

It is started from here by path and loads only what it needs of the standard library: its start takes some 50 ms.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from typing import Final

from otel_health.http.negotiation import HEALTH_JSON, HTML, TEXT, accepted, parse_query
from otel_health.lifecycle.serving.http1 import (
    NO_EXCLUDE,
    NOT_ALLOWED,
    NOT_FOUND,
    Answer,
    Request,
)
from otel_health.lifecycle.serving.listener import Later, Listener
from otel_health.lifecycle.serving.slate import Slate

TICK: Final = 0.25
"""Seconds between two looks at the parent, where its end is not told otherwise."""

READY: Final = b"+"
"""What is sent to the parent when requests are answered."""

_PR_SET_PDEATHSIG: Final = 1

SILENT_JSON: Final = b'{"status":"fail","output":"the process has been silent for too long"}'
SILENT_TEXT: Final = b"the process has been silent for too long\n"


def asked_for(request: Request) -> str | Answer:
    """Return the media type that is asked for, or the answer that refuses the request."""
    if request.method not in (b"GET", b"HEAD"):
        return NOT_ALLOWED
    if request.query:
        parsed = parse_query(request.query)
        if parsed is None or parsed[1]:
            return NO_EXCLUDE
        if parsed[0]:
            return TEXT
    media_type = accepted(request.accept)
    return HEALTH_JSON if media_type == HTML else media_type  # The status page is the service's own.


def probe_at(path: bytes) -> str:
    """Return the name in a path such as `/livez` or `/livez/`; what is none of ours will match nothing."""
    return path.removeprefix(b"/").removesuffix(b"/").decode("latin-1") if path.startswith(b"/") else ""


def respond_from(slate: Slate, request: Request) -> Answer:
    """Answer from what the main process last wrote, for as long as that may be believed."""
    record = slate.read() or {}
    written = record.get(probe_at(request.path))
    if written is None:
        return NOT_FOUND
    media_type = asked_for(request)
    if isinstance(media_type, Answer):
        return media_type
    silent = time.monotonic() >= written.believed_until
    if media_type == TEXT:
        return Answer(503 if silent else written.status, TEXT, SILENT_TEXT if silent else written.as_text)
    return Answer(503 if silent else written.status, media_type, SILENT_JSON if silent else written.as_json)


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it, where the kernel can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(listening_fd: int, slate_fd: int, parent_fd: int, parent: int) -> None:
    """Serve until the parent is gone, or closes its end of the socket to us."""
    # A signal to all of a service's processes is the main one's to act upon: it is probed while it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    slate = Slate(slate_fd)

    def respond(request: Request, _: Later) -> Answer:
        return respond_from(slate, request)

    def lives() -> bool:
        return os.getppid() == parent

    with socket.socket(fileno=listening_fd) as listening, socket.socket(fileno=parent_fd) as channel:
        listener = Listener(listening, respond, parent_fd, lambda: False, alive=lives, tick=TICK)
        listener.serve(lambda: channel.send(READY))
