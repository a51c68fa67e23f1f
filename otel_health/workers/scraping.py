"""Workers that ask each other for what they measure, so that whoever is scraped can show all."""

import asyncio
import selectors
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_health.threads import start
from otel_health.workers.exposition import merged, ours
from otel_health.workers.meeting import SOCKET, file_of
from otel_health.workers.processes import Process

ASK_SECONDS: Final = 1.0
"""How long a scrape waits for the other workers, all of them together; who does not answer is not shown."""

ANSWER_SECONDS: Final = 0.9
"""How long a worker takes to answer, at most: whoever asked has gone after that."""

MAX_TEXT: Final = 2**26
"""Bytes of one worker's text that are taken, at most."""

BACKLOG: Final = 16
MAX_ACCEPT: Final = 1024

_LENGTH: Final = struct.Struct("!Q")

Measure = Callable[[str], Awaitable[bytes]]
"""Returns all that this worker measures, as an `Accept` header wants it."""


class Answering:
    """Answers the other workers, one after the other, in a thread of its own: the loop may be stuck.

    Args:
        path: Where they ask.
        measure: What they get, as far as it is this library's.

    Raises:
        OSError: The socket cannot be made.
    """

    def __init__(self, path: Path, measure: Measure) -> None:
        self._measure = measure
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listening.bind(str(path))
            self._listening.listen(BACKLOG)
            self._listening.setblocking(False)
            self._wake, self._bell = socket.socketpair()
        except OSError:
            self._listening.close()
            raise
        start(self._serve, "otel_health-workers")

    def close(self) -> None:
        """Answer nobody any more."""
        self._bell.close()

    def forked(self) -> None:
        """Close what a forked child has of it."""
        for held in (self._listening, self._wake, self._bell):
            held.close()

    def _serve(self) -> None:
        with self._listening, self._wake, selectors.DefaultSelector() as selector:
            for waited_for in (self._listening, self._wake):
                selector.register(waited_for, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                # A client that has gone, an exporter that raises or is too slow: whoever asked does without us.
                with suppress(Exception):
                    self._answer(self._listening.accept()[0])

    def _answer(self, client: socket.socket) -> None:
        with client:
            client.settimeout(ANSWER_SECONDS)
            accept = client.recv(MAX_ACCEPT).decode("latin-1").removesuffix("\n")
            text = ours(asyncio.run(self._within(accept)))
            client.sendall(_LENGTH.pack(len(text)) + text)

    async def _within(self, accept: str) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._measure(accept)


class Asking:
    """Has a scrape show all workers; what a `PrometheusExporter` asks when it has others beside it.

    Args:
        place: Where they meet.
        own: This worker.
        others: The others.
    """

    def __init__(self, place: Path, own: Process, others: Callable[[], list[Process]]) -> None:
        self._place = place
        self._own = own
        self._others = others

    async def texts(self, accept: str) -> dict[str, bytes]:
        """Return what the other workers measure, by what tells them apart; no more than `ASK_SECONDS` are waited."""
        others = self._others()
        texts = await asyncio.gather(*(self._ask(other, accept) for other in others))
        return {str(other.pid): text for other, text in zip(others, texts, strict=True) if text is not None}

    def merged(self, own: bytes, others: Mapping[str, bytes]) -> bytes:
        """Return one text of this worker's own and the others'."""
        return merged(own, str(self._own.pid), others)

    async def _ask(self, other: Process, accept: str) -> bytes | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                reader, writer = await asyncio.open_unix_connection(file_of(self._place, other, SOCKET))
                try:
                    writer.write(accept.encode("latin-1", "replace")[: MAX_ACCEPT - 1] + b"\n")
                    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                    return await reader.readexactly(length) if length <= MAX_TEXT else None
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError):
            return None
