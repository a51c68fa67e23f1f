"""Servers of one behaviour each, on loopback, for what no real server can be made to do at will."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from otel_health import Checker, CheckFunc, CheckResult
from tests.servers import free_port

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Accept and never say anything, as a process that hangs behind its port."""
    await asyncio.Event().wait()


async def slamming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Accept and close at once, as a process that is killed."""
    writer.transport.abort()


async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Answer what belongs to no protocol."""
    writer.write(bytes(range(256)) * 4 + b"\n\n")
    await writer.drain()
    writer.close()


async def dribbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Answer a byte at a time and never come to an end."""
    while True:
        writer.write(b"H")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
    """Answer without end, as fast as it goes."""
    while True:
        writer.write(b"220-" + b"x" * 1000 + b"\r\n")
        await writer.drain()


def saying(answer: bytes) -> Behaviour:
    """Answer the first thing that is said with these bytes, and close."""

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return answering


class Door:
    """A port, with whoever came through it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.visits = 0
        self.inside: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def door(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Door]:
    """Serve a behaviour at a port of loopback."""
    made = Door(free_port())

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.visits += 1
        task = asyncio.current_task()
        assert task is not None
        made.inside.add(task)
        try:
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            made.inside.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(visit, "127.0.0.1", made.port, ssl=tls)
    try:
        yield made
    finally:
        server.close()
        for _ in range(3):  # Whoever was accepted a moment ago comes in first.
            await asyncio.sleep(0)
        for task in made.inside:
            task.cancel()
        for _ in range(3):  # And then whoever is inside is out, and his socket closed.
            await asyncio.sleep(0)


FAULTS = pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (None, {"ConnectionRefusedError"}),
        (silent, {"timeout"}),
        (slamming, {"ConnectionError", "ConnectionResetError", "ConnectionAbortedError", "IncompleteReadError"}),
        (rubbish, {"failed", "SSLError"}),
        (dribbling, {"failed", "timeout", "SSLError"}),
        (flooding, {"failed", "timeout", "SSLError"}),
    ],
    ids=["refused", "silent", "slamming", "rubbish", "dribbling", "flooding"],
)
"""How a server can be there and not be there, and what a check may call it."""


async def fault(make: Callable[[int], CheckFunc], behaviour: Behaviour | None) -> CheckResult:
    """What a check says of a server that behaves so; within its deadline, and with nothing left open."""
    if behaviour is None:
        return await result(make(free_port()), timeout=0.5)
    async with door(behaviour) as faulty:
        found = await result(make(faulty.port), timeout=0.5)
        assert found.duration is None or found.duration < 2.0
        assert faulty.visits == 1
    return found


async def result(check: CheckFunc, *, timeout: float = 3.0) -> CheckResult:
    """What one run of a check says."""
    checker = Checker(timeout=timeout, trace="never")
    checker.add("it", check)
    found = (await checker.run()).components["it"].result
    await checker.__aexit__(None, None, None)
    assert found is not None
    return found
