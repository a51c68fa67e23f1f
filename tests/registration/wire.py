"""A wire between a client and a server, which can be cut, and on which connections can be lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Wire:
    """Takes connections on a port of its own, and passes them on."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = 0
        self.refuses = False
        """Connections are closed at once: nobody is there."""
        self.frozen = False
        """Connections are taken, and nothing comes through: a partition."""
        self.loses: Callable[[], bool] = lambda: False
        """Whether what a new connection brings is lost on the way there."""
        self.loses_answer: Callable[[], bool] = lambda: False
        """Whether it arrives, and the answer is lost on the way back."""
        self.delay = 0.0
        """Seconds that a new connection takes."""
        self.taken = 0
        """How many connections were taken."""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.taken += 1
        try:
            if self.refuses:
                return
            if self.frozen or self.loses():
                with suppress(OSError):
                    while await reader.read(65536):
                        pass
                return
            await asyncio.sleep(self.delay)
            with suppress(OSError):
                there, on = await asyncio.open_connection("127.0.0.1", self._server_port)
                back = None if self.loses_answer() else asyncio.ensure_future(_pass_on(there, writer))
                await _pass_on(reader, on)
                if back is not None:
                    back.cancel()
                on.transport.abort()
        finally:
            writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A wire to what listens at this port of loopback."""
    wire = Wire(port)
    server = await asyncio.start_server(wire.take, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
