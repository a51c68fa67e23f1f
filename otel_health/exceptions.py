"""Exceptions that nobody caught: told of once, counted, and passed on to whoever dealt with them before."""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, get_meter_provider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_health import names
from otel_health.check import CheckFunc, require_seconds
from otel_health.compose import threshold
from otel_health.forks import tell_of_forks
from otel_health.redaction import describe, redact, stack_of

MAX_TYPES: Final = 50
"""Class names of exceptions told apart; any further one is `other`."""

MAX_REMEMBERED: Final = 10_000
"""Exceptions that `rate` remembers at most."""

TELLING_SECONDS: Final = 0.25
"""How long closing waits, at most, for what was noticed to be told."""

_Noticed = tuple[BaseException, str, trace.SpanContext]

LoopHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

_TOLD: Final = "_otel_health_told"
_BODY: Final = b"Internal Server Error"


class UnhandledExceptions:
    """Notices the exceptions that nobody caught: in requests, on the event loop, in tasks, in threads, at the end.

    Each is logged once, at ERROR, with its class, its redacted message, where it was noticed and the trace it
    belongs to; it is counted in `otel_health.unhandled_exceptions`; and it is passed on to the hook that was there
    before. Opened with `async with`, inside the lifespan, or with `with` around a whole program; closing it puts the
    hooks back.

    Args:
        logger: A standard-library logger; `logging.getLogger("otel_health")` by default.
        meter_provider: Where the count goes; the global provider by default.
        tracebacks: Whether the log may hold tracebacks; they can hold secrets.
        clock: Monotonic seconds; for tests that control time.

    Example:
        >>> unhandled = UnhandledExceptions()
        >>> checker.add("exceptions", unhandled.rate(warn=1, fail=100), local=True)
        >>> app = unhandled.middleware(app)
    """

    def __init__(
        self,
        *,
        logger: logging.Logger | None = None,
        meter_provider: MeterProvider | None = None,
        tracebacks: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger or logging.getLogger(names.SCOPE)
        self._tracebacks = tracebacks
        self._clock = clock
        provider = meter_provider or get_meter_provider()
        self._count = provider.get_meter(names.SCOPE).create_counter(
            names.UNHANDLED_EXCEPTIONS, "", "Exceptions that nobody caught, by where they were noticed."
        )
        self._types: set[str] = set()
        self.forked()
        tell_of_forks(self)
        self._times: deque[float] = deque(maxlen=MAX_REMEMBERED)
        self._hooks: _Hooks | None = None

    def forked(self) -> None:
        """Have a lock that nobody holds, in a forked child, and no thread."""
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[_Noticed | None] | None = None
        self._thread: threading.Thread | None = None

    # Requests.

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap an ASGI application; an exception that leaves it is answered 500, without detail.

        Wrapped around a whole Starlette application it comes after the application's own answer to the exception;
        given as one of its middlewares it leaves that answer to it, if it has one. A response that has begun and
        not ended is the server's to cut off: there the exception goes on.
        """

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun = ended = False
            around_us = scope.get("app")

            async def sending(message: Message) -> None:
                nonlocal begun, ended
                begun = True
                ended = message["type"] == "http.response.body" and not message.get("more_body", False)
                await send(message)

            try:
                await app(scope, receive, sending)
            except Exception as error:
                told: list[BaseException] = scope.setdefault(_TOLD, [])
                if not any(each is error for each in told):
                    told.append(error)
                    self.noticed(error, "request")
                if ended:
                    return
                if begun or _answers_itself(around_us):
                    raise
                await _answer(scope, send)

        return guarded

    # Everything else.

    async def __aenter__(self) -> Self:
        self._open(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __enter__(self) -> Self:
        self._open(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.noticed(error, "process")
        self._close()

    def _open(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._hooks is not None:
            raise RuntimeError("these UnhandledExceptions are already open; open them once")
        waiting: SimpleQueue[_Noticed | None] = SimpleQueue()
        self._waiting = waiting
        self._thread = threading.Thread(target=self._work, args=(waiting,), name="otel_health-exceptions", daemon=True)
        self._thread.start()
        self._hooks = _Hooks(self.noticed, loop)

    def _close(self) -> None:
        hooks, self._hooks = self._hooks, None
        waiting, self._waiting = self._waiting, None
        if hooks is not None:
            hooks.put_back()
        if waiting is not None and self._thread is not None:
            waiting.put(None)
            self._thread.join(TELLING_SECONDS)

    def _work(self, waiting: "SimpleQueue[_Noticed | None]") -> None:
        while (noticed := waiting.get()) is not None:
            self._tell(*noticed)
            del noticed

    def noticed(self, error: BaseException, where: str) -> None:
        """Tell of an exception and count it; never raises.

        While this is open a thread of its own does the telling: the garbage collector may find a failed task at any
        moment, even in the middle of a collection of metrics, whose locks are then held.

        Args:
            error: What nobody caught.
            where: `"request"`, `"loop"`, `"task"`, `"thread"`, `"process"`, or a word of the caller's own.
        """
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return
        self._times.append(self._clock())
        noticed = error, where, trace.get_current_span().get_span_context()
        waiting = self._waiting
        if waiting is None:
            self._tell(*noticed)
        else:
            waiting.put(noticed)

    def _tell(self, error: BaseException, where: str, context: trace.SpanContext) -> None:
        error_type = self._bounded(redact(type(error).__name__))
        try:
            self._count.add(1, {names.WHERE: where, names.ERROR_TYPE: error_type})
            self._log(error, error_type, where, context)
        except Exception as fault:  # noqa: BLE001 - a meter or log handler at fault must cost the caller nothing.
            with suppress(OSError, ValueError, AttributeError):  # There may be no stderr, or it may be closed.
                sys.stderr.write(f"otel_health: telling of an unhandled {error_type} raised {type(fault).__name__}\n")

    def rate(self, *, warn: float | None = None, fail: float | None = None, per: float = 60.0) -> CheckFunc:
        """Return a check function that warns or fails at so many unhandled exceptions in the last `per` seconds.

        Raises:
            ValueError: Neither limit is given, they are out of order, or `per` is no positive number of seconds.
        """
        require_seconds("rate", "per", per)

        async def counted() -> float:
            since = self._clock() - per
            return float(sum(1 for noticed_at in list(self._times) if noticed_at > since))

        return threshold(counted, warn=warn, fail=fail, observation="exceptions")

    def _bounded(self, name: str) -> str:
        with self._lock:
            if name not in self._types and len(self._types) >= MAX_TYPES:
                return "other"
            self._types.add(name)
            return name

    def _log(self, error: BaseException, error_type: str, where: str, context: trace.SpanContext) -> None:
        extra = {names.EVENT_WHERE: where, names.EVENT_ERROR_TYPE: error_type}
        if context.is_valid:
            extra[names.EVENT_TRACE_ID] = trace.format_trace_id(context.trace_id)
        text = f"unhandled {error_type} in a {where}: {describe(error)}"
        if self._tracebacks:
            text = f"{text}\n{stack_of(error)}"
        self._logger.error("%s", text, extra=extra)


class _Hooks:
    """The hooks of the interpreter and of one event loop, with what stood there before.

    Args:
        noticed: Told of each exception, and where it was noticed.
        loop: Whose exception handler to take over as well, if any.
    """

    def __init__(self, noticed: Callable[[BaseException, str], None], loop: asyncio.AbstractEventLoop | None) -> None:
        self._noticed = noticed
        self._loop = loop
        self._threads_before = threading.excepthook
        self._process_before = sys.excepthook
        threading.excepthook = self._in_thread
        sys.excepthook = self._in_process
        if loop is not None:
            self._loop_before: LoopHandler | None = loop.get_exception_handler()
            loop.set_exception_handler(self._on_loop)

    def put_back(self) -> None:
        """Put back what stood there before, unless somebody else has taken our place meanwhile."""
        if threading.excepthook == self._in_thread:
            threading.excepthook = self._threads_before
        if sys.excepthook == self._in_process:
            sys.excepthook = self._process_before
        if self._loop is not None and self._loop.get_exception_handler() == self._on_loop:
            self._loop.set_exception_handler(self._loop_before)

    def _on_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._noticed(error, "task" if isinstance(context.get("future"), asyncio.Future) else "loop")
        if self._loop_before is not None:
            self._loop_before(loop, context)
        else:
            loop.default_exception_handler(context)

    def _in_thread(self, raised: threading.ExceptHookArgs) -> None:
        if raised.exc_value is not None and not issubclass(raised.exc_type, SystemExit):
            self._noticed(raised.exc_value, "thread")
        self._threads_before(raised)

    def _in_process(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, KeyboardInterrupt):
            self._noticed(error, "process")
        self._process_before(kind, error, traceback)


def _answers_itself(application: object) -> bool:
    """Whether this Starlette application has a handler for any exception, or shows them to its developer."""
    handlers = getattr(application, "exception_handlers", None)
    return bool(getattr(application, "debug", False)) or (
        isinstance(handlers, dict) and (Exception in handlers or 500 in handlers)
    )


async def _answer(scope: Scope, send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(_BODY)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _BODY})
