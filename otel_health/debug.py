"""A look inside a live process: what it waits for, what it holds, where its time goes. Closed unless opened."""

import asyncio
import inspect
import logging
import sys
import threading
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from otel_health import names
from otel_health.forks import tell_of_forks
from otel_health.http.endpoints import Authorize, require_authorizer
from otel_health.redaction import redact
from otel_health.threads import call_on

MAX_SECONDS: Final = 30.0
"""The longest that a profile or a trace of allocations may run."""

DEFAULT_SECONDS: Final = 5.0
TOP: Final = 30
"""How many allocation sites are shown."""

MAX_TASKS: Final = 1000
MAX_BYTES: Final = 16 * 1024 * 1024
"""The largest answer."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_NO_STORE: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_HTML_POLICY: Final = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
}

Value = TypeVar("Value")
Page = Callable[[Request], Awaitable[Response]]


def debug_routes(
    prefix: str = "/debug", *, authorize: Authorize, logger: logging.Logger | None = None
) -> list[BaseRoute]:
    """Return Starlette routes that show the inside of this process to whom `authorize` lets in.

    - `GET {prefix}/stacks`: every thread, and every asyncio task of this loop with what it awaits.
    - `POST {prefix}/allocations?seconds=5`: where memory was allocated, and not freed, in that time.
    - `POST {prefix}/profile?seconds=5&format=text`: where the event loop's thread spends its time; as `text`, `html` or
      `speedscope`. Needs the extra `otel-health[debug]`.

    The two that cost something run one at a time, for at most 30 s. Every use leaves a line in the log. They belong on
    no port that others can reach: stacks and profiles hold paths and names of the code.

    Args:
        prefix: Where they stand.
        authorize: Lets a caller in when it answers exactly True: `bearer(...)`, `every(bearer(...), networks(...))`.
        logger: Where uses are logged; `logging.getLogger("otel_health")` by default.

    Raises:
        TypeError: `authorize` cannot be called. There is no default: nobody is let in unasked.
        ValueError: The prefix does not begin with a slash, or ends with one.
    """
    require_authorizer(authorize, "debug_routes: ")
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError(f"debug_routes: prefix={prefix!r} must begin with '/' and not end with it, such as '/debug'")
    guard = _Guard(authorize, logger or logging.getLogger(names.SCOPE))
    pages = (("GET", "stacks", _stacks), ("POST", "allocations", _allocations), ("POST", "profile", _profile))
    return [
        # Every method comes to the guard: who is not let in learns nothing of what would be right.
        Route(f"{prefix}/{name}", guard.around(name, method, page), methods=METHODS, include_in_schema=False)
        for method, name, page in pages
    ]


class _Guard:
    """Stands before the pages: lets in whom the authoriser names, and writes down who looked at what."""

    def __init__(self, authorize: Authorize, logger: logging.Logger) -> None:
        self._authorize = authorize
        self._logger = logger

    def around(self, name: str, method: str, page: Page) -> Page:
        """Guard one page, which is asked for by one method."""

        async def guarded(request: Request) -> Response:
            client = redact(request.client.host) if request.client else "a Unix socket"
            if not await self._admits(request):
                self._logger.info("debug: %s was refused %s", client, name)
                return _said(401, "unauthorized", {"www-authenticate": "Bearer"})
            if request.method != method:
                return _said(405, f"ask for {name} by {method}", {"allow": method})
            self._logger.warning("debug: %s asked for %s", client, name)
            return await page(request)

        return guarded

    async def _admits(self, request: Request) -> bool:
        try:
            answer = self._authorize(request)
            return (await answer if inspect.isawaitable(answer) else answer) is True
        except Exception as error:  # noqa: BLE001 - a fault of the authoriser closes the door and nothing else.
            self._logger.error("debug: authorize raised %s; nobody is let in", type(error).__name__)
            return False


# What it waits for.


async def _stacks(_: Request) -> Response:
    named = {thread.ident: thread for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to see other threads.
        thread = named.get(ident)
        name = f"{thread.name}{', daemon' if thread.daemon else ''}" if thread else "not started by threading"
        parts.append(f"thread {redact(name)} ({ident})\n{''.join(traceback.format_stack(frame))}")
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    parts.extend(_task(task) for task in tasks[:MAX_TASKS])
    if len(tasks) > MAX_TASKS:
        parts.append(f"and {len(tasks) - MAX_TASKS} tasks more\n")
    return _text("\n".join([f"{len(named)} threads, {len(tasks)} tasks\n", *parts]))


def _task(task: "asyncio.Task[Any]") -> str:
    lines, awaited = _awaiting(task.get_coro())
    return f"task {redact(task.get_name())}\n{''.join(lines)}  awaits {awaited}\n"


def _awaiting(awaitable: object) -> tuple[list[str], str]:
    """The frames from a task's coroutine down to what it waits for, and the type of that."""
    lines: list[str] = []
    while awaitable is not None:
        frame: FrameType | None = getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)
        code: CodeType | None = getattr(awaitable, "cr_code", None) or getattr(awaitable, "gi_code", None)
        if code is None:
            return lines, type(awaitable).__qualname__
        line = frame.f_lineno if frame is not None else code.co_firstlineno
        lines.append(f'  File "{code.co_filename}", line {line}, in {code.co_qualname}\n')
        awaitable = getattr(awaitable, "cr_await", None) or getattr(awaitable, "gi_yieldfrom", None)
    return lines, "its turn"


# What it holds.


async def _allocations(request: Request) -> Response:
    seconds = _seconds(request)
    if seconds is None:
        return _bad_seconds()
    with _alone() as admitted:
        if not admitted:
            return _busy()
        ours = not tracemalloc.is_tracing()
        if ours:
            tracemalloc.start()
        try:
            before = await _aside(tracemalloc.take_snapshot)
            await asyncio.sleep(seconds)
            after = await _aside(tracemalloc.take_snapshot)
        finally:
            if ours:
                tracemalloc.stop()
        grown = await _aside(lambda: after.compare_to(before, "lineno"))
    lines = [f"allocated and not freed in {seconds:g} s, by line of code"]
    lines.extend(f"{each.size_diff / 1024:+10.1f} KiB {each.count_diff:+8d}  {each.traceback}" for each in grown[:TOP])
    return _text("\n".join([*lines, ""]))


# Where its time goes.


async def _profile(request: Request) -> Response:
    seconds = _seconds(request)
    if seconds is None:
        return _bad_seconds()
    wanted = request.query_params.get("format", "text")
    if wanted not in ("text", "html", "speedscope"):
        return _said(400, "format must be text, html or speedscope")
    try:
        from pyinstrument import Profiler, renderers
    except ImportError:
        return _said(501, "the profiler is not installed; pip install 'otel-health[debug]'")
    with _alone() as admitted:
        if not admitted:
            return _busy()
        profiler = Profiler(async_mode="disabled")
        profiler.start()
        try:
            await asyncio.sleep(seconds)
        finally:
            session = profiler.stop()
    if wanted == "html":
        page = await _aside(lambda: renderers.HTMLRenderer().render(session))
        return _sized(page, "text/html; charset=utf-8", _HTML_POLICY)
    if wanted == "speedscope":
        page = await _aside(lambda: renderers.SpeedscopeRenderer().render(session))
        return _sized(
            page, "application/json", {"content-disposition": 'attachment; filename="profile.speedscope.json"'}
        )
    console = renderers.ConsoleRenderer(unicode=True, color=False)
    return _text(await _aside(lambda: console.render(session)))


# What they share.


async def _aside(call: Callable[[], Value]) -> Value:
    """Make a call that takes long in a thread of its own, so that neither loop nor anybody's pool is held up."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Value] = loop.create_future()

    def deliver(value: Value | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as raised:  # noqa: BLE001 - it is raised again where the call was asked for.
            error = raised
        call_on(loop, deliver, value, error)

    threading.Thread(target=work, name="otel_health-debug", daemon=True).start()
    return await done


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether nobody else looks at this moment; both profiler and tracemalloc are the whole process's."""
    looking = _looking.lock
    admitted = looking.acquire(blocking=False)
    try:
        yield admitted
    finally:
        if admitted:
            looking.release()


class _Looking:
    """Held by whoever looks."""

    def __init__(self) -> None:
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Be free, in a forked child: whoever looked is in the parent."""
        self.lock = threading.Lock()


_looking: Final = _Looking()


def _seconds(request: Request) -> float | None:
    try:
        seconds = float(request.query_params.get("seconds", DEFAULT_SECONDS))
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_SECONDS else None


def _said(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**_NO_STORE, **(headers or {})})


def _bad_seconds() -> Response:
    return _said(400, f"seconds must be a number above 0 and at most {MAX_SECONDS:g}")


def _busy() -> Response:
    return _said(409, "another profile or trace of allocations is under way; try again when it has ended")


def _text(text: str) -> Response:
    return _sized(text, "text/plain; charset=utf-8", {})


def _sized(text: str, media_type: str, headers: dict[str, str]) -> Response:
    body = text.encode("utf-8", "replace")
    if len(body) > MAX_BYTES:
        return _said(413, f"the answer would be {len(body)} bytes; ask for fewer seconds")
    return Response(body, 200, {**_NO_STORE, **headers}, media_type)
