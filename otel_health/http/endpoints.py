"""Probes over HTTP: ASGI endpoints that answer from the state, in time, whatever the checks do."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Final, NamedTuple, Protocol

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from otel_health.history import Particulars
from otel_health.http import render, status_page
from otel_health.http.negotiation import (
    HTML,
    MAX_EXCLUDED,
    MAX_EXCLUDED_BYTES,
    MAX_QUERY_BYTES,
    TEXT,
    accepted,
    parse_query,
)
from otel_health.http.render import Details, Service
from otel_health.report import HealthReport

SHARED_SECONDS: Final = 1.0
"""How long one status page serves all who may see everything, unless something changes sooner."""

SLICE: Final = 50
"""Components of such a page that are rendered before the loop has its turn; each takes some 30 us."""

Authorize = Callable[[Request], bool | Awaitable[bool]]
"""Whether a caller may see everything; only an answer of exactly True counts."""

Lifespan = Callable[[Receive, Send], Awaitable[None]]
"""Speaks ASGI's lifespan protocol."""


class Source(Protocol):
    """What the endpoints ask of a Checker."""

    answer_within: float
    service: Service

    @property
    def version(self) -> int: ...
    @property
    def probes(self) -> tuple[str, ...]: ...
    def now(self) -> float: ...
    def renewal(self, probe: str, only: str | None = None) -> "asyncio.Future[None] | None": ...
    def report(self, probe: str, *, exclude: Collection[str] = ()) -> HealthReport: ...
    def report_one(self, probe: str, component: str) -> HealthReport | None: ...
    def particulars(self, component: str) -> Particulars | None: ...
    def expires_at(self, probe: str) -> float: ...
    def fault(self, message: str, *arguments: object) -> None: ...


class Page(NamedTuple):
    """An answer that is ready to be sent."""

    start: dict[str, object]
    body: dict[str, object]
    head: dict[str, object]
    expires_at: float


def page(
    status: int,
    media_type: str,
    body: bytes,
    *,
    expires_at: float = float("inf"),
    more: Iterable[tuple[bytes, bytes]] = (),
) -> Page:
    """Make an answer; none may be kept by anyone on the way."""
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *more,
    ]
    return Page(
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
        {"type": "http.response.body", "body": b""},
        expires_at,
    )


def _status_page(report: HealthReport, pieces: Iterable[str], expires_at: float) -> Page:
    body = "".join(pieces).encode("utf-8", "replace")
    status = 200 if report.status.up else 503
    return page(status, HTML, body, expires_at=expires_at, more=status_page.headers())


NOT_FOUND: Final = page(404, TEXT, b"not found\n")
NOT_ALLOWED: Final = page(405, TEXT, b"method not allowed\n", more=[(b"allow", b"GET, HEAD")])
BAD_EXCLUDE: Final = page(
    400,
    TEXT,
    f"at most {MAX_EXCLUDED} excluded names of {MAX_EXCLUDED_BYTES} bytes, {MAX_QUERY_BYTES} bytes in all\n".encode(),
)


class ProbeEndpoint:
    """One probe, and the components below it, as an ASGI endpoint."""

    def __init__(self, source: Source, probe: str, details: Details, authorize: Authorize | None) -> None:
        self._source = source
        self._probe = probe
        self._details: Details = details
        self._authorize = authorize
        self._version = -1
        self._pages: dict[tuple[str, str | None], Page] = {}
        self._full_pages: dict[str | None, tuple[int, Page]] = {}
        self.__name__ = probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape.
        """Answer one request; Starlette gives the component as a path parameter."""
        params = scope.get("path_params")
        await self.answer(scope, send, params.get("component", "") if params else "")

    async def answer(self, scope: Scope, send: Send, below: str) -> None:
        """Answer one request for the probe, or for what stands below it: one of its components."""
        component = (below.removesuffix("/") or None) if below else None
        answer = self._kept(scope, component) or await self._made(scope, component)
        await send(answer.start)
        await send(answer.head if scope["method"] == "HEAD" else answer.body)

    def _kept(self, scope: Scope, component: str | None) -> Page | None:
        """The answer that was given before, if it still holds and nothing has to be asked or waited for."""
        query = scope["query_string"]
        if self._authorize is not None or (query and query != b"verbose") or scope["method"] not in ("GET", "HEAD"):
            return None
        source = self._source
        key = (TEXT if query else accepted(_header(scope, b"accept")), component)
        kept = self._pages.get(key)
        if kept is None or (key[0] != HTML and source.renewal(self._probe, component) is not None):
            return None
        if self._version != source.version:
            return None
        if source.now() < kept.expires_at:
            return kept
        # Nothing has changed but the time. Where results have come since, what was rendered stands as it is.
        expires_at = source.expires_at(self._probe)
        if source.now() >= expires_at:
            return None
        kept = self._pages[key] = kept._replace(expires_at=expires_at)
        return kept

    async def _made(self, scope: Scope, component: str | None) -> Page:
        """The answer to anything else: authorise, parse, renew within the budget, render."""
        if scope["method"] not in ("GET", "HEAD"):
            return NOT_ALLOWED
        source = self._source
        asked_at = source.now()
        details = self._details
        if self._authorize is not None and details != "full" and await self._lifted(scope):
            details = "full"
        if component is not None and (details == "status" or source.report_one(self._probe, component) is None):
            return NOT_FOUND
        media_type = accepted(_header(scope, b"accept"))
        excluded: tuple[str, ...] = ()
        query = scope["query_string"]
        if query:
            parsed = parse_query(bytes(query))
            if parsed is None:
                return BAD_EXCLUDE
            verbose, excluded = parsed
            if verbose:
                media_type = TEXT
            if details == "status":
                excluded = ()  # Whether a name changes the verdict is more than the verdict alone.
        # The page looks on: that it is open in somebody's browser has no check run.
        renewal = None if media_type == HTML else source.renewal(self._probe, component)
        if renewal is not None:
            budget = source.answer_within - (source.now() - asked_at)
            await asyncio.wait((renewal,), timeout=max(budget, 0.0))
        if details == "full" and media_type == HTML:
            return await self._full_page(component, excluded)
        if excluded or details == "full":
            return self._render(media_type, component, details, excluded)
        if self._version != source.version:
            self._version = source.version
            self._pages.clear()
        kept = self._pages.get((media_type, component))
        if kept is None or source.now() >= kept.expires_at:
            kept = self._render(media_type, component, details, ())
            if kept is not NOT_FOUND:
                self._pages[media_type, component] = kept
        return kept

    def _render(self, media_type: str, component: str | None, details: Details, exclude: tuple[str, ...]) -> Page:
        asked = self._asked(component, exclude)
        if asked is None:
            return NOT_FOUND
        report, matched, unknown = asked
        if media_type == HTML:
            pieces = status_page.pieces(
                report, details, self._source.service, component=component, excluded=matched, unknown=unknown
            )
            return _status_page(report, pieces, report.expires_at)
        if media_type == TEXT:
            body = render.as_text(report, details, matched, unknown)
        else:
            body = render.as_json(report, details, self._source.service, unknown)
        return page(200 if report.status.up else 503, media_type, body, expires_at=report.expires_at)

    async def _full_page(self, component: str | None, exclude: tuple[str, ...]) -> Page:
        """The status page with everything: rendered at most once a second, in slices that hold nobody up."""
        source = self._source
        version, kept = self._full_pages.get(component, (-1, NOT_FOUND))
        if not exclude and version == source.version and source.now() < kept.expires_at:
            return kept
        version, until = source.version, source.now() + SHARED_SECONDS
        asked = self._asked(component, exclude)
        if asked is None:
            return NOT_FOUND
        report, matched, unknown = asked
        pieces = []
        for piece in status_page.pieces(
            report,
            "full",
            source.service,
            component=component,
            excluded=matched,
            unknown=unknown,
            seen=status_page.Seen(source.particulars, time.time()),
        ):
            pieces.append(piece)
            if len(pieces) % SLICE == 0:
                await asyncio.sleep(0)
        made = _status_page(report, pieces, min(report.expires_at, until))
        if not exclude:
            self._full_pages[component] = version, made
        return made

    def _asked(
        self, component: str | None, exclude: tuple[str, ...]
    ) -> tuple[HealthReport, Collection[str], Collection[str]] | None:
        """The report that is asked for, with the names that were left out of it, and those that match nothing."""
        if component is not None:
            one = self._source.report_one(self._probe, component)
            return None if one is None else (one, (), ())
        report = self._source.report(self._probe)
        if not exclude:
            return report, (), ()
        matched = [name for name in exclude if name in report.components]
        unknown = [name for name in exclude if name not in report.components]
        return self._source.report(self._probe, exclude=matched), matched, unknown

    async def _lifted(self, scope: Scope) -> bool:
        """Whether the caller may see everything; an authoriser that raises or dawdles lifts nobody."""
        assert self._authorize is not None
        try:
            answer = self._authorize(Request(scope))
            if not inspect.isawaitable(answer):
                return answer is True
        except BaseException as error:  # noqa: BLE001 - a fault of the authoriser closes the door and nothing else.
            self._closed_to(error)
            return False
        task = asyncio.ensure_future(self._answered(answer))
        try:
            done, _ = await asyncio.wait((task,), timeout=self._source.answer_within / 2)
            if not done:
                self._source.fault("authorize did not answer in time for %s; details are withheld", self._probe)
            return bool(done) and task.result()
        finally:
            task.cancel()

    async def _answered(self, answer: Awaitable[bool]) -> bool:
        try:
            return await answer is True
        except BaseException as error:  # noqa: BLE001 - as in _lifted; our own cancellation waits for no answer.
            self._closed_to(error)
            return False

    def _closed_to(self, error: BaseException) -> None:
        self._source.fault("authorize raised %s for %s; details are withheld", type(error).__name__, self._probe)


class Endpoints:
    """The endpoint of each probe, made when it is first asked for."""

    def __init__(self, source: Source, details: Details, authorize: Authorize | None) -> None:
        self._source = source
        self._details: Details = details
        self._authorize = authorize
        self._made: dict[str, ProbeEndpoint] = {}
        self._found: dict[str, tuple[ProbeEndpoint, str]] = {}

    def find(self, path: str) -> tuple[ProbeEndpoint | None, str]:
        """The endpoint for a path such as `/readyz/postgres`, and what stands below the probe."""
        found = self._found.get(path)
        if found is not None:
            return found
        slash, _, rest = path.partition("/")
        probe, _, below = rest.partition("/")
        if slash:  # Something stands before the first slash: this is no path of ours.
            return None, ""
        endpoint = self._made.get(probe)
        if endpoint is None and probe in self._source.probes:
            endpoint = self._made[probe] = ProbeEndpoint(self._source, probe, self._details, self._authorize)
        if endpoint is not None and not below:
            self._found[path] = endpoint, below
        return endpoint, below


class HealthApp:
    """All probes of a Checker as one ASGI application, for any framework or none."""

    def __init__(self, endpoints: Endpoints, lifespan: Lifespan) -> None:
        self._endpoints = endpoints
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or keep the Checker open for as long as the server lives."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        endpoint, below = self._endpoints.find(_path(scope))
        if endpoint is not None:
            await endpoint.answer(scope, send, below)
            return
        await send(NOT_FOUND.start)
        await send(NOT_FOUND.head if scope["method"] == "HEAD" else NOT_FOUND.body)


class ProbeRoutes(BaseRoute):
    """All probes of a Checker as one Starlette route.

    One, and no pattern: requests for the application's own routes pass it at the price of a comparison, there is no
    redirect, and whatever stands below a probe is answered by the probe.
    """

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        self._endpoints = endpoints
        self._prefix = prefix

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this is a request for a probe, or for what stands below one."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = _path(scope)
        if not path.startswith(self._prefix):
            return Match.NONE, {}
        endpoint, below = self._endpoints.find(path[len(self._prefix) :])
        if endpoint is None:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": endpoint, "path_params": {"component": below}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request that matched."""
        await scope["endpoint"](scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of a probe by its name, and of a component below it."""
        component = path_params.pop("component", "")
        if path_params or self._endpoints.find(f"/{name}")[0] is None:
            raise NoMatchFound(name, path_params)
        return URLPath(f"{self._prefix}/{name}" + (f"/{component}" if component else ""), protocol="http")


def require_details(details: object, authorize: object) -> None:
    """Refuse what is neither a level of detail nor an authoriser."""
    if details not in render.DETAILS:
        raise ValueError(f"details={details!r} must be one of {', '.join(map(repr, render.DETAILS))}")
    if authorize is not None:
        require_authorizer(authorize)


def require_authorizer(authorize: object, subject: str = "") -> None:
    """Refuse what cannot be called, without repeating it: as a rule it is the token itself."""
    if not callable(authorize):
        raise TypeError(
            f"{subject}authorize is a {type(authorize).__name__}; pass a function of the request, such as "
            "otel_health.access.bearer(token)"
        )


def _path(scope: Scope) -> str:
    """The path below the mount point, which a server may have left in it or taken away."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if not root:
        return path
    below = path.removeprefix(root)
    return below if below != path and below[:1] in ("", "/") else path


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""
