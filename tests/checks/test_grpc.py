"""A gRPC server says that it serves, over the channel that the application holds."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from otel_health import Status
from otel_health.checks.grpc import serves
from tests.checks.doors import Behaviour, door, dribbling, flooding, result, rubbish, silent, slamming
from tests.checks.programs import goes_and_comes_back, open_files, python
from tests.servers import OwnServer

OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
"""As an application in a test would have them; a new channel each, since channels share their connections."""


@asynccontextmanager
async def asynchronous(port: int) -> AsyncIterator[Any]:
    """A channel of the event loop."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        yield channel


@asynccontextmanager
async def synchronous(port: int) -> AsyncIterator[Any]:
    """A channel that blocks."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        yield channel


opened = pytest.mark.parametrize("opened", [asynchronous, synchronous])


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server with three services: one serves, one does not, one does not know."""
    with python("tests.checks.grpc_server") as started:
        yield started


@opened
@pytest.mark.parametrize(
    ("service", "status", "said"),
    [
        ("", Status.PASS, ""),
        ("serving", Status.PASS, ""),
        ("not_serving", Status.FAIL, "the server answers NOT_SERVING"),
        ("unknown", Status.FAIL, "the server answers UNKNOWN"),
        ("nobody", Status.FAIL, "NOT_FOUND"),
    ],
)
async def test_a_real_server(opened: Any, server: OwnServer, service: str, status: Status, said: str) -> None:
    """What the health service says of each is understood."""
    async with opened(server.port) as channel:
        found = await result(serves(channel, service=service))

    assert found.status is status
    assert said in (found.message or "")


@opened
async def test_a_server_that_goes_and_comes_back(opened: Any) -> None:
    """Killed or frozen it is noticed, and again when it is back."""
    with python("tests.checks.grpc_server") as server:
        async with opened(server.port) as channel:
            await goes_and_comes_back(serves(channel), server)


@opened
@pytest.mark.parametrize("behaviour", [silent, slamming, rubbish, dribbling, flooding])
async def test_a_server_that_is_not_well(opened: Any, behaviour: Behaviour) -> None:
    """Whatever it does, the check ends in time: unavailable, or not yet connected."""
    async with door(behaviour) as faulty, opened(faulty.port) as channel:
        found = await result(serves(channel), timeout=0.5)

    assert found.refined_error_type in {"AioRpcError", "_InactiveRpcError", "timeout"}


@opened
async def test_a_server_that_refuses_us(opened: Any) -> None:
    """Its status says so."""

    async def refuse(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, *_: object) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.aio.server(interceptors=[Guard()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with opened(port) as channel:
            found = await result(serves(channel))
    finally:
        await server.stop(None)

    assert found.refined_error_type in {"AioRpcError", "_InactiveRpcError"}
    assert "UNAUTHENTICATED" in (found.message or "")


@opened
async def test_a_thousand_runs_open_one_connection(opened: Any, server: OwnServer) -> None:
    """Nothing is opened, and nothing stays."""
    async with opened(server.port) as channel:
        check: Callable[[], Awaitable[None] | None] = serves(channel)  # type: ignore[assignment]
        await one(check)
        before = open_files()

        for _ in range(1000):
            await one(check)

        assert open_files() <= before + 2


async def one(check: Callable[[], Awaitable[None] | None]) -> None:
    """Make one run, wherever it runs."""
    if inspect.iscoroutinefunction(check):
        await check()
    else:
        await asyncio.to_thread(check)


@pytest.mark.parametrize(
    ("channel", "service", "error"),
    [("127.0.0.1:50051", "", TypeError), (None, "", TypeError), (object(), "", TypeError)],
)
def test_what_is_no_channel_is_refused(channel: Any, service: str, error: type[Exception]) -> None:
    """The error says what to pass."""
    with pytest.raises(error, match=r"pass a grpc.aio.Channel or a grpc.Channel"):
        serves(channel, service=service)


def test_a_name_that_is_too_long_is_refused() -> None:
    """No service is called so."""
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(ValueError, match="longer than 127 bytes"):
        serves(channel, service="x" * 128)
