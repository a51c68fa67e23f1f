"""gRPC: channels, synchronous and asynchronous."""

import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from otel_health import CheckFunc
from otel_health.check import is_async
from otel_health.checks import grpc
from otel_health_instrumentation.clients.technology import Server, Technology, server

WAITS: Final = 2.0
"""Seconds for which a synchronous call waits, so that a server that hangs holds no thread."""

_ANSWERED: Final = {"UNIMPLEMENTED", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED"}
"""What only a server says that is there: it does not know the health protocol, or does not speak of it to us."""

_EXPORTER: Final = "opentelemetry.exporter"
_EXPORTS: Final = "_otel_health_exports"

_CHANNELS: Final = ("grpc.", "opentelemetry.instrumentation.grpc.")
"""Where channels are that intercept the calls of another one."""

_SCHEME: Final = re.compile(r"(?:dns|ipv4|ipv6):(?://[^/]*/)?")


def _note(channel: Any, *_: object) -> None:
    """Note whether an exporter makes this channel: where telemetry goes is nothing the application depends on."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None and not _is_an_exporters(frame.f_globals.get("__name__")):
        frame = frame.f_back
    setattr(channel, _EXPORTS, frame is not None)


def _server(channel: Any) -> Server | None:
    exports = getattr(channel, _EXPORTS, None)
    if exports or (exports is None and _is_held_by_telemetry(channel)):
        return None
    target = channel._channel.target  # noqa: SLF001 - it is said nowhere else, here by a method and there by itself.
    address = _SCHEME.sub("", (target() if callable(target) else target).decode(), count=1)
    host, _, port = address.rpartition(":")
    return server("grpc", host, port) if host and port.isdigit() else server("grpc", address)


def _is_held_by_telemetry(thing: object, depth: int = 3) -> bool:
    """Whether an exporter sends through this channel, which nobody has seen made; it takes looks at the whole heap."""
    for holder in gc.get_referrers(thing):
        module = str(type(holder).__module__)
        if _is_an_exporters(module):
            return True
        # Attributes may lie in a dictionary, and the channel in others that intercept its calls.
        if (
            depth
            and (type(holder) is dict or module.startswith(_CHANNELS))
            and _is_held_by_telemetry(holder, depth - 1)
        ):
            return True
    return False


def _is_an_exporters(module: object) -> bool:
    return str(module).startswith(_EXPORTER)


def _check(channel: Any) -> CheckFunc:
    if is_async(channel.close):
        serves = grpc.serves(channel)

        async def check() -> None:
            with _answered():
                await serves()  # type: ignore[misc] # It is async, as the channel is.

        return check
    asks = grpc.serves(_Bounded(channel))

    def check_and_block() -> None:
        with _answered():
            asks()

    return check_and_block


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = getattr(error, "code", None)
        if not callable(code) or getattr(code(), "name", None) not in _ANSWERED:
            raise


class _Bounded:
    """A synchronous channel whose calls end."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.close = channel.close

    def unary_unary(self, method: str, /) -> Callable[[bytes], bytes]:
        """Return what calls a method with one request and one response."""
        call = self._channel.unary_unary(method)
        return lambda request: call(request, timeout=WAITS)


def _usable(channel: Any) -> bool:
    inner = channel._channel  # noqa: SLF001
    if hasattr(inner, "closed"):
        return not inner.closed()
    try:
        inner.check_connectivity_state(False)
    except ValueError:  # So a synchronous one says that it was closed.
        return False
    return True


GRPC: Final = Technology(
    name="grpc",
    classes={"grpc._channel": ("Channel",), "grpc.aio._channel": ("Channel",)},
    note=_note,
    server=_server,
    check=_check,
    usable=_usable,
    loop=lambda channel: getattr(channel, "_loop", None),
)
