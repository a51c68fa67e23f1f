"""Requests to an ASGI application without a server between."""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

CONNECTED: Final[Scope] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"kube-probe/1.31"), (b"accept", b"*/*")],
    "client": ("127.0.0.1", 40000),
    "server": ("127.0.0.1", 8000),
}


def request(target: str) -> Scope:
    """A GET as a server hands it to the application."""
    path, _, query = target.partition("?")
    return {**CONNECTED, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": ""}


async def receive() -> Message:
    """All that the client had to say."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def answer(app: ASGIApp, target: str) -> bytes:
    """The body of the answer, which has to be a success."""
    body: list[bytes] = []
    started: dict[str, Any] = {}

    async def send(message: Message) -> None:
        started.update(message)
        body.append(message.get("body", b""))

    await app(request(target), receive, send)
    if started["status"] != 200:
        raise RuntimeError(f"{target} answers {started['status']} instead of 200")
    return b"".join(body)
