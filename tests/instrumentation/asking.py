"""Asking ASGI applications: with their lifespan or without, on one event loop or on one for each request."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from httpx2 import ASGITransport, AsyncClient, Response


@asynccontextmanager
async def asking(app: Any, root_path: str = "") -> AsyncIterator[AsyncClient]:
    """A client of the application, which is told of no lifespan."""
    transport = ASGITransport(app, root_path=root_path)
    async with AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


def asked_anew(app: Any) -> Callable[[str], Response]:
    """Ask on an event loop of its own for each request, which is closed after it."""

    async def ask(path: str) -> Response:
        async with asking(app) as client:
            return await client.get(path)

    return lambda path: asyncio.run(ask(path))


@asynccontextmanager
async def living(app: Any) -> AsyncIterator[None]:
    """Keep the application alive as a server does."""
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, said.get, heard.put))
    for stage in ("startup", "shutdown"):
        await said.put({"type": f"lifespan.{stage}"})
        assert (await heard.get())["type"] == f"lifespan.{stage}.complete"
        if stage == "startup":
            yield
    await life
