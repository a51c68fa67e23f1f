"""gRPC: a server says that it serves, by the standard health protocol."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from otel_health.check import CheckFunc, Failed, is_async

METHOD: Final = "/grpc.health.v1.Health/Check"
_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class Channel(Protocol):
    """What is used of a `grpc.Channel` or `grpc.aio.Channel`."""

    def unary_unary(self, method: str, /) -> Callable[[bytes], bytes | Awaitable[bytes]]:
        """Return what calls a method with one request and one response."""

    def close(self) -> object:
        """Close the channel; never called, its shape tells whether the channel is asynchronous."""


def serves(channel: Channel, *, service: str = "") -> CheckFunc:
    """Return a check that asks a gRPC server, over a channel that the application holds, whether it serves.

    It proves that the channel works, and what the server says of itself or of one service by `grpc.health.v1`
    (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). The server must have that service; one without
    fails as UNIMPLEMENTED, and one that does not know `service` as NOT_FOUND. Which of the backends of a balanced
    channel answers is the channel's choice.

    Cost: one call; every 10 s is fine. On `readyz` if nothing works without it. Over a synchronous channel a server
    that hangs holds a thread until the connection breaks: give the channel `grpc.keepalive_time_ms`.

    Args:
        channel: A `grpc.aio.Channel` of the Checker's event loop, or a `grpc.Channel`.
        service: The service to ask for, as `package.Service`; the server as a whole if empty.

    Raises:
        TypeError: The channel is none.
        ValueError: The service's name is longer than 127 bytes.

    Example:
        >>> checker.add("ledger", grpc.serves(channel, service="ledger.v1.Ledger"))
    """
    if not callable(getattr(channel, "unary_unary", None)) or not callable(getattr(channel, "close", None)):
        raise TypeError(f"grpc: {type(channel).__name__} is no channel; pass a grpc.aio.Channel or a grpc.Channel")
    named = service.encode()
    if len(named) > 127:
        raise ValueError("grpc: the service's name is longer than 127 bytes; write it as package.Service")
    # HealthCheckRequest { string service = 1; }
    request = bytes((0x0A, len(named))) + named if named else b""

    async def ask() -> None:
        response = channel.unary_unary(METHOD)(request)
        assert inspect.isawaitable(response)
        _judge(await response)

    def ask_and_block() -> None:
        response = channel.unary_unary(METHOD)(request)
        assert isinstance(response, bytes)
        _judge(response)

    return ask if is_async(channel.close) else ask_and_block


def _judge(response: bytes) -> None:
    """Read HealthCheckResponse { ServingStatus status = 1; }; a field that is left out is 0."""
    status = 0
    if response[:1] == b"\x08" and len(response) > 1:
        status = response[1]
    if status != 1:
        raise Failed(f"the server answers {_STATUSES.get(status, 'a status that is not known')}")
