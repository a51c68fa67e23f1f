"""Answers requests on one listening socket, from one thread, whatever its clients do."""

import errno
import selectors
import socket
import time
from collections.abc import Callable
from typing import Final

from otel_health.lifecycle.serving.http1 import LATE, UNAVAILABLE, Answer, Request, encoded, take

MAX_CONNECTIONS: Final = 128
"""Connections held at once; for one more, the one that has waited longest is closed."""

REQUEST_SECONDS: Final = 4.5
"""Seconds in which a request must have come and its answer gone, or a kept connection be used again."""

LATER_SECONDS: Final = 15.0
"""Seconds that an answer which is made elsewhere may take."""

LINGER_SECONDS: Final = 0.5
"""Seconds for which what a refused client still sends is read: closed at once, it would never see why."""

MAX_REQUESTS: Final = 100
"""Requests on one connection."""

PAUSE_SECONDS: Final = 0.1
"""Seconds until connections are accepted again after the process had no file descriptor left."""

_READ_BYTES: Final = 16384
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Later = Callable[[Answer], None]
"""Takes an answer that was not there at once, in the listener's thread."""

Respond = Callable[[Request, Later], Answer | None]
"""Answers a request; None promises that the answer comes later."""


class Connection:
    """One client."""

    __slots__ = (
        "awaited",
        "buffer",
        "closing",
        "deadline",
        "incoming",
        "out",
        "refused",
        "requests",
        "since",
        "socket",
        "waiting",
    )

    def __init__(self, client: socket.socket, now: float) -> None:
        self.socket = client
        self.buffer = bytearray()
        self.out = b""
        self.requests = 0
        self.since = now
        """Since when its present request is waited for."""
        self.deadline = now + REQUEST_SECONDS
        self.waiting = False
        """Its answer is made elsewhere."""
        self.closing = False
        """It is closed when what it is to be told is gone."""
        self.refused = False
        """It may be sending what nobody reads: it is told why before it is closed."""
        self.incoming = True
        """It may still send something."""
        self.awaited = 0
        """The events that the selector waits for."""


class Listener:
    """Serves HTTP on a listening socket for as long as `alive()`.

    Most probes are one packet on a connection of its own: they are accepted, read, answered and closed without
    having been registered anywhere. Each system call gives the interpreter's lock away, and where many threads
    compute, it takes 5 ms for each of them to get it back.

    Args:
        listening: Listens already; the caller closes it.
        respond: Answers a request.
        wake: A file descriptor that is readable when `woken` is to be called.
        woken: Does what the thread was woken for; False ends the serving.
        alive: Asked at least every `tick` seconds.
        tick: Seconds; None where only `woken` ends the serving.
    """

    def __init__(
        self,
        listening: socket.socket,
        respond: Respond,
        wake: int,
        woken: Callable[[], bool],
        *,
        alive: Callable[[], bool] = lambda: True,
        tick: float | None = None,
    ) -> None:
        self._listening = listening
        self._respond = respond
        self._wake = wake
        self._woken = woken
        self._alive = alive
        self._tick = tick
        self._connections: set[Connection] = set()
        self._selector: selectors.BaseSelector | None = None
        self._paused_until: float | None = None

    def serve(self, started: Callable[[], object]) -> None:
        """Answer until there is no more reason to; then close every connection.

        `started` is called when all that this needs is there.
        """
        self._listening.setblocking(False)
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            try:
                selector.register(self._listening, selectors.EVENT_READ)
                selector.register(self._wake, selectors.EVENT_READ)
                started()
                while self._alive() and self._turn(selector):
                    self._expire(time.monotonic())
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Close what this process holds of the connections, and say nothing to anybody; for a forked child, too."""
        for connection in list(self._connections):
            connection.socket.close()
        self._connections.clear()
        if self._selector is not None:
            self._selector.close()

    def _turn(self, selector: selectors.BaseSelector) -> bool:
        for key, events in selector.select(self._patience()):
            if key.fileobj is self._listening:
                self._accept(selector)
            elif key.fd == self._wake:
                if not self._woken():
                    return False
            elif key.data in self._connections:
                self._advance(key.data, events)
        return True

    def _patience(self) -> float | None:
        dues = [connection.deadline for connection in self._connections]
        if self._paused_until is not None:
            dues.append(self._paused_until)
        first = max(min(dues) - time.monotonic(), 0.0) if dues else self._tick
        return first if self._tick is None or first is None else min(first, self._tick)

    def _expire(self, now: float) -> None:
        assert self._selector is not None
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
            self._selector.register(self._listening, selectors.EVENT_READ)
        for connection in [each for each in self._connections if now >= each.deadline]:
            if connection.buffer and not connection.out and not connection.closing:
                # It goes out whole or not at all: the time of this client is up.
                self._try_send(connection, encoded(LATE, head=False, keep_alive=False))
            self._drop(connection)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        """Take in one client; the others that wait have their turn before the next."""
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(self._slowest())
        try:
            client, _ = self._listening.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:  # To try again at once would only burn the processor.
                selector.unregister(self._listening)
                self._paused_until = time.monotonic() + PAUSE_SECONDS
            return
        connection = Connection(client, time.monotonic())
        self._connections.add(connection)
        self._advance(connection, selectors.EVENT_READ)

    def _slowest(self) -> Connection:
        """Who has waited longest, but first of those whose requests come in pieces: probers send theirs whole."""
        return min(self._connections, key=lambda connection: (not connection.buffer, connection.since))

    def _advance(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(connection)
            self._serve(connection)
            if events & selectors.EVENT_READ and connection in self._connections:
                self._read(connection)
            if connection in self._connections:
                self._await_events(connection)
        except OSError:  # The client is gone.
            self._drop(connection)

    def _read(self, connection: Connection) -> None:
        try:
            received = connection.socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not received:
            connection.incoming = False
            connection.closing = True
            if not (connection.out or connection.waiting):
                self._drop(connection)
        elif not connection.closing:
            if connection.waiting and len(connection.buffer) > _READ_BYTES:
                self._drop(connection)
                return
            connection.buffer += received
            self._serve(connection)

    def _serve(self, connection: Connection) -> None:
        """Answer what has come, one request after the other."""
        while connection in self._connections and not (connection.out or connection.waiting or connection.closing):
            request = take(connection.buffer)
            if request is None:
                return
            if isinstance(request, Answer):
                connection.refused = True
                self._send(connection, encoded(request, head=False, keep_alive=False), last=True)
                return
            connection.requests += 1
            last = not request.keep_alive or connection.requests >= MAX_REQUESTS
            connection.refused = request.has_body or bool(connection.buffer)
            answer = self._answered(connection, request, last=last)
            if answer is not None:
                self._reply(connection, request, answer, last=last)

    def _answered(self, connection: Connection, request: Request, *, last: bool) -> Answer | None:
        def later(answer: Answer) -> None:
            if connection.waiting and connection in self._connections:
                connection.waiting = False
                connection.deadline = time.monotonic() + REQUEST_SECONDS
                self._reply(connection, request, answer, last=last or connection.closing)
                self._advance(connection, 0)

        connection.waiting = True
        try:
            answer = self._respond(request, later)
        except Exception:  # noqa: BLE001 - a fault in one answer must not end the thread that gives all others.
            answer = UNAVAILABLE
        connection.waiting = answer is None
        if answer is None:
            connection.deadline = time.monotonic() + LATER_SECONDS
        return answer

    def _reply(self, connection: Connection, request: Request, answer: Answer, *, last: bool) -> None:
        self._send(connection, encoded(answer, head=request.method == b"HEAD", keep_alive=not last), last=last)

    def _send(self, connection: Connection, answer: bytes, *, last: bool) -> None:
        connection.closing = last
        connection.out = answer
        try:
            self._flush(connection)
        except OSError:
            self._drop(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.out:
            connection.out = connection.out[self._try_send(connection, connection.out) :]
        if connection.out:
            return
        connection.since = now = time.monotonic()
        connection.deadline = now + REQUEST_SECONDS
        if connection.closing:
            self._say_goodbye(connection)

    def _try_send(self, connection: Connection, answer: bytes) -> int:
        try:
            return connection.socket.send(answer, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return len(answer)  # Nobody is there to read the rest.

    def _say_goodbye(self, connection: Connection) -> None:
        """Close; where a client may still be sending, once it has: it would be reset before it has read us."""
        if not connection.incoming or not connection.refused:
            self._drop(connection)
            return
        connection.socket.shutdown(socket.SHUT_WR)
        connection.buffer.clear()
        connection.deadline = time.monotonic() + LINGER_SECONDS

    def _await_events(self, connection: Connection) -> None:
        """Have the selector wait for what this connection waits for."""
        assert self._selector is not None
        wanted = selectors.EVENT_READ if connection.incoming else 0
        wanted |= selectors.EVENT_WRITE if connection.out else 0
        if wanted == connection.awaited:
            return
        if not connection.awaited:
            self._selector.register(connection.socket, wanted, connection)
        elif not wanted:
            self._selector.unregister(connection.socket)
        else:
            self._selector.modify(connection.socket, wanted, connection)
        connection.awaited = wanted

    def _drop(self, connection: Connection) -> None:
        assert self._selector is not None
        if connection in self._connections:
            self._connections.discard(connection)
            if connection.awaited:
                self._selector.unregister(connection.socket)
            connection.socket.close()
