"""What drivers put into their errors comes out nowhere."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import http.client
import io
import json
import logging
import random
import socket
import sqlite3
import ssl
import string
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import asyncpg
import httpx2
import redis
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request as StarletteRequest

from otel_health import Checker, CheckFunc, Degraded, Failed
from tests.servers import free_port
from tests.soak import driver_errors
from tests.soak.figure import Figure, scaled, series_of
from tests.soak.telemetry import Heard

USER: Final = "svc_orders_user"
UNHURRIED_EVERY: Final = 10
"""Of so many secrets one is given to the drivers that take long."""

HOST: Final = "db-primary.internal.example"

SHAPES: Final = (
    string.ascii_letters + string.digits,
    string.hexdigits,
    string.ascii_letters + string.digits + "+/=",
    string.ascii_letters + string.digits + "!$%^*-_+~",
    string.ascii_letters + string.digits + "@:/?#",
    string.ascii_letters + string.digits + "\u00e4\u00df\u4e2d",
    string.digits,
)


class Planted(NamedTuple):
    """A secret, and where it stands."""

    secret: str
    """Of any shape: quoted in URLs, between quotes elsewhere."""
    token: str
    """Letters and digits, for places that allow nothing else, or that somebody fills without quoting."""
    closed: int
    """A port of loopback that nobody listens at."""
    refusing: int
    """A port of loopback where an HTTP server says 401 to everything."""

    def url(self, scheme: str, host: str = HOST, port: int = 5432) -> str:
        """A URL with the secret in its user information, as it has to be written."""
        return f"{scheme}://{USER}:{quote(self.secret, safe='')}@{host}:{port}/orders"

    @property
    def forms(self) -> tuple[str, ...]:
        """What must not be seen."""
        escaped = json.dumps(self.secret)[1:-1]
        return tuple({self.secret, quote(self.secret), quote(self.secret, safe=""), escaped, self.token})


def planted(seed: int, closed: int, refusing: int) -> Planted:
    """Make up a secret."""
    chance = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    secret = "".join(chance.choices(shape, k=chance.randint(14, 40)))
    token = "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randint(14, 40)))
    return Planted(secret, token, closed, refusing)


Templates = Mapping[str, Callable[[Planted], str]]
TEXTS: Final[Templates] = {
    "dsn": lambda p: f"cannot connect to {p.url('postgresql')}",
    "dsn in quotes": lambda p: f"bad address '{p.url('redis')}', giving up",
    "libpq": lambda p: f"host={HOST} user={USER} password='{p.secret}' dbname=orders",
    "odbc": lambda p: f"Driver=x;Server={HOST};UID={USER};PWD={p.token};Encrypt=yes",
    "jdbc": lambda p: f"jdbc:postgresql://{HOST}/orders?user={USER}&password={quote(p.secret, safe='')}",
    "mapping": lambda p: f"{ {'host': HOST, 'user': USER, 'password': p.token} }",
    "json": lambda p: json.dumps({"user": USER, "api_key": p.token, "host": HOST}),
    "bearer": lambda p: f"401 from {HOST}: authorization: Bearer {p.token}",
    "basic": lambda p: f"headers {{'Authorization': 'Basic {p.token}=='}}",
    "cookie": lambda p: f"Cookie: session={p.token}; path=/",
    "statement": lambda p: f"syntax error in ALTER ROLE {USER} WITH PASSWORD '{p.token}'",
    "environment": lambda p: f"PGPASSWORD={p.token} psql -h {HOST}",
    "signed": lambda p: f"GET https://{HOST}/x?X-Amz-Signature={p.token}&n=1 failed",
    "query": lambda p: f"GET https://{HOST}/x?sid={quote(p.secret, safe='')}&n=1 failed",
    "negotiated": lambda p: f"407 from {HOST}: Negotiate {p.token}",
    "cookies": lambda p: f"Set-Cookie: theme=dark; sid={p.token}",
    "pass": lambda p: f"{ {'host': HOST, 'pass': p.token} }",
    "argument": lambda p: f"mysqldump --password {p.token} -h {HOST} failed",
    "web hook": lambda p: f"POST https://hooks.slack.com/services/T000/B000/{p.token}: 404",
    "web token": lambda p: f"refused eyJ{p.token}.eyJ{p.token}.{p.token}",
    "key": lambda p: f"-----BEGIN RSA PRIVATE KEY-----\n{p.token}\n-----END RSA PRIVATE KEY-----",
    "amqp": lambda p: f"connection to {p.url('amqps')} lost",
    "mongodb": lambda p: f"{p.url('mongodb+srv')}: no primary",
    "auth": lambda p: f"wrong number of arguments for AUTH {USER} {p.token}",
}
CLASSES: Final[tuple[Callable[[str], BaseException], ...]] = (
    asyncpg.InvalidPasswordError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InterfaceError,
    redis.ConnectionError,
    redis.AuthenticationError,
    redis.ResponseError,
    sqlite3.OperationalError,
    httpx2.ConnectError,
    httpx2.InvalidURL,
    URLError,
    ssl.SSLError,
    http.client.HTTPException,
    TimeoutError,
    KeyError,
    lambda text: OSError(111, "Connection refused", text),
    lambda text: socket.gaierror(-2, f"Name or service not known: {text}"),
    lambda text: ExceptionGroup(text, [OSError(text)]),
    Failed,
    Degraded,
)


def _asyncpg(dsn: str) -> CheckFunc:
    async def check() -> None:
        await asyncpg.connect(dsn, timeout=2)

    return check


def _redis(url: str) -> CheckFunc:
    def check() -> None:
        redis.Redis.from_url(url, socket_timeout=2).ping()

    return check


def _sqlite(target: str, statement: str) -> CheckFunc:
    def check() -> None:
        sqlite3.connect(target, uri=True).execute(statement)

    return check


def _httpx(url: str) -> CheckFunc:
    async def check() -> None:
        async with httpx2.AsyncClient(trust_env=False) as client:
            (await client.get(url)).raise_for_status()

    return check


def _urllib(url: str) -> CheckFunc:
    def check() -> None:
        urlopen(Request(url), timeout=2).close()

    return check


def _tls(port: int, server_name: str) -> CheckFunc:
    def check() -> None:
        with socket.create_connection(("127.0.0.1", port), 2) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname=server_name)

    return check


def _raising(error: BaseException) -> CheckFunc:
    async def check() -> None:
        raise error

    return check


def _chained(text: str) -> CheckFunc:
    async def check() -> None:
        try:
            raise OSError(text)
        except OSError as error:
            error.add_note(text)
            raise RuntimeError(f"while checking: {error}") from error

    return check


def drivers(p: Planted) -> dict[str, CheckFunc]:
    """Return checks whose drivers really fail, at what really is wrong in the field."""
    here, sloppy = "127.0.0.1", f"{USER}:{p.token}"
    return {
        "asyncpg refused": _asyncpg(p.url("postgresql", here, p.closed)),
        "asyncpg slash in password": _asyncpg(f"postgresql://{sloppy}/x@{here}:{p.closed}/orders"),
        "asyncpg wrong option": _asyncpg(p.url("postgresql", here, p.closed) + f"?password={p.token}&nonsense=1"),
        "redis refused": _redis(p.url("redis", here, p.closed)),
        "redis wrong protocol": _redis(p.url("redis", here, p.refusing)),
        "redis wrong scheme": _redis(p.url("reddis", here, p.closed)),
        "redis slash in password": _redis(f"redis://{sloppy}/x@{here}:{p.closed}/0"),
        "redis too old": _raising(
            redis.ResponseError(f"unknown command 'AUTH', with args beginning with: '{USER}' '{p.token}' ")
        ),
        "sqlite no file": _sqlite(f"file:/nonexistent/{USER}?mode=ro&key={p.token}", "SELECT 1"),
        "sqlite attached": _sqlite(":memory:", f"ATTACH '/nonexistent/x' AS y KEY '{p.token}'"),
        "httpx status": _httpx(p.url("http", here, p.refusing) + f"?token={quote(p.secret, safe='')}"),
        "httpx refused": _httpx(p.url("http", here, p.closed)),
        "httpx slash in password": _httpx(f"http://{sloppy}/x@{here}:{p.closed}/"),
        "httpx wrong scheme": _httpx(p.url("htp", here, p.closed)),
        "urllib status": _urllib(f"http://{here}:{p.refusing}/?api_key={quote(p.secret, safe='')}"),
        "urllib refused": _urllib(f"http://{here}:{p.closed}/?api_key={quote(p.secret, safe='')}"),
        "urllib user information": _urllib(f"http://{sloppy}@{here}/"),
        "urllib no scheme": _urllib(f"//{sloppy}@{here}/orders"),
        "urllib wrong scheme": _urllib(p.url("htp", here, p.closed)),
        "tls wrong version": _tls(p.refusing, HOST),
        "tls refused": _tls(p.closed, HOST),
        "http error": _raising(
            HTTPError(p.url("https"), 401, f"no access with token={p.token}", http.client.HTTPMessage(), io.BytesIO())
        ),
        "chained": _chained(f"cannot connect to {p.url('postgresql')}"),
    }


def checks(p: Planted, seed: int) -> dict[str, CheckFunc]:
    """Return every check of one secret: what drivers raise, and what could stand in their texts."""
    found = drivers(p) | driver_errors.checks(p, USER, all_of_them=seed % UNHURRIED_EVERY == 0)
    for number, (name, text) in enumerate(TEXTS.items()):
        found[f"text {name}"] = _raising(CLASSES[(seed + number) % len(CLASSES)](text(p)))
    return found


def _operators(request: StarletteRequest) -> bool:
    return request.headers.get("x-token") == "right"


class Sinks:
    """Everything that a Checker tells, to whomever."""

    def __init__(self) -> None:
        self.heard, self.spans, self.reader = Heard(), InMemorySpanExporter(), InMemoryMetricReader()
        logger = logging.Logger("heard", logging.DEBUG)
        logger.addHandler(self.heard)
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.events = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        events = LoggerProvider(shutdown_on_exit=False)
        events.add_log_record_processor(SimpleLogRecordProcessor(self.events))
        self.checker = Checker(
            logger_provider=events,
            logger=logger,
            tracer_provider=tracers,
            meter_provider=meters,
            timeout=2.0,
            trace="always",
            ttl=60.0,
        )

    async def texts(self) -> dict[str, str]:
        """What each sink holds."""
        found: dict[str, str] = {}
        for details in ("status", "names", "full"):
            found[details] = "\n".join([body async for body in self._bodies(self.checker.asgi(details=details))])
        found["anonymous"] = "\n".join([body async for body in self._bodies(self.checker.asgi(authorize=_operators))])
        found["logs"] = "\n".join(f"{record.getMessage()} {vars(record)}" for record in self.heard.records)
        found["events"] = "\n".join(each.to_json() for each in self.events.get_finished_logs())
        found["spans"] = "\n".join(span.to_json() for span in self.spans.get_finished_spans())
        found["metrics"] = repr(series_of(self.reader))
        return found

    async def _bodies(self, app: Any) -> AsyncIterator[str]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://soak") as client:
            for path in (
                "/readyz",
                "/healthz",
                "/readyz?verbose",
                "/livez",
                *map("/readyz/{}".format, self.checker.names),
            ):
                for accept in ("application/json", "text/plain", "text/html"):
                    # What an authorised caller was told before must not be kept for anyone else.
                    await client.get(path, headers={"accept": accept, "x-token": "right"})
                    response = await client.get(path, headers={"accept": accept})
                    yield f"{response.headers} {response.text}"


def gate_S1(scale: float) -> Figure:
    """No secrets out: of anything that drivers say, by any way."""
    return asyncio.run(_corpus(scaled(200, scale, len(SHAPES))))


async def _corpus(secrets: int) -> Figure:
    leaks: dict[str, set[str]] = {}
    errors = 0
    server = await asyncio.start_server(_refuse, "127.0.0.1", 0)
    async with server:
        refusing = server.sockets[0].getsockname()[1]
        for seed in range(secrets):
            p = planted(seed, free_port(), refusing)
            named = checks(p, seed)
            sinks = Sinks()
            for number, check in enumerate(named.values()):
                sinks.checker.add(f"c{number}", check)
            report = await sinks.checker.run()
            errors += sum(
                state.result is not None and state.result.message is not None for state in report.components.values()
            )
            types = {state.result.exception_type for state in report.components.values() if state.result is not None}
            texts = await sinks.texts()
            for where, what in _seen(p, texts, {name for name in types if name}):
                leaks.setdefault(f"{where}: {what}", set())
            for name, state in zip(named, report.components.values(), strict=True):
                message = state.result.message if state.result is not None else None
                if message and any(form in message for form in p.forms):
                    leaks.setdefault("message", set()).add(name)
    told = "; ".join(f"{where} {sorted(names) or ''}".strip() for where, names in sorted(leaks.items()))
    return Figure(
        "S1",
        "anonymous bodies hold no secret, host, user, class name or traceback; no sink holds a secret",
        f"{secrets} secrets in {errors} errors through 8 sinks: {told or 'nothing seen'}",
        not leaks and errors >= secrets * 30,
    )


def _seen(p: Planted, texts: Mapping[str, str], types: set[str]) -> Iterator[tuple[str, str]]:
    """Yield where something is seen that must not be, and what kind of thing it is."""
    for where, text in texts.items():
        if any(form in text for form in p.forms):
            yield where, "secret"
        if where in ("status", "names", "anonymous"):
            for what in (HOST, USER, "127.0.0.1", "Traceback", str(p.closed), str(p.refusing), *types):
                if what in text:
                    yield where, what


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say 401 to whatever comes."""
    try:
        await reader.read(1)
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
