"""Exceptions that nobody caught, wherever they surface."""

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from otel_health import Checker, Status
from otel_health.exceptions import UnhandledExceptions
from otel_health.prometheus import PrometheusExporter

SECRET = "postgresql://orders:hunter2@db/orders"


async def broken(_: Request) -> PlainTextResponse:
    """An endpoint with a fault in it."""
    raise LookupError(f"no connection to {SECRET}")


async def asked(app: ASGIApp, path: str = "/") -> Response:
    """What a client gets, from a server that lets nothing through."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        return await client.get(path)


def counted(exporter: PrometheusExporter) -> list[str]:
    """The samples of the count."""
    lines = generate_latest(exporter.registry).decode().splitlines()
    return [line for line in lines if line.startswith("otel_health_unhandled_exceptions_total")]


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged as unhandled."""
    return [record for record in caplog.records if record.getMessage().startswith("unhandled")]


async def test_an_exception_in_a_request_is_answered_logged_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets 500 and no detail; the log names the class and withholds the secret."""
    exporter = PrometheusExporter()
    unhandled = UnhandledExceptions(meter_provider=exporter.meter_provider)
    app = unhandled.middleware(Starlette(routes=[Route("/", broken)]))

    response = await asked(app)

    assert (response.status_code, response.text) == (500, "Internal Server Error")
    (record,) = told(caplog)
    assert record.levelno == logging.ERROR
    assert "LookupError" in record.getMessage()
    assert "hunter2" not in caplog.text
    assert vars(record)["otel_health.where"] == "request"
    assert vars(record)["otel_health.error_type"] == "LookupError"
    assert counted(exporter) == ['otel_health_unhandled_exceptions_total{error_type="LookupError",where="request"} 1.0']


@pytest.mark.parametrize("application", [Starlette, FastAPI])
async def test_an_application_keeps_its_own_answer(application: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where it has a handler for exceptions, that one answers: around the application, and inside it."""

    async def own(_: Request, __: Exception) -> PlainTextResponse:
        return PlainTextResponse("our own page", 500)

    unhandled = UnhandledExceptions()
    around = application(routes=[Route("/", broken)], exception_handlers={Exception: own})
    inside = application(
        routes=[Route("/", broken)], exception_handlers={500: own}, middleware=[Middleware(unhandled.middleware)]
    )

    assert (await asked(unhandled.middleware(around))).text == "our own page"
    assert (await asked(quiet(inside))).text == "our own page"
    assert len(told(caplog)) == 2


async def test_inside_an_application_without_a_handler_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    """As a middleware of Starlette it answers itself, and the server hears of nothing."""
    unhandled = UnhandledExceptions()
    app = Starlette(routes=[Route("/", broken)], middleware=[Middleware(unhandled.middleware)])

    response = await asked(app)

    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert len(told(caplog)) == 1


async def test_a_response_that_has_begun_is_left_to_the_server() -> None:
    """Nobody else can cut it off; the client must not take half of it for the whole."""

    async def half() -> Any:
        yield b"half"
        raise LookupError("gone")

    async def streaming(_: Request) -> StreamingResponse:
        return StreamingResponse(half())

    app = UnhandledExceptions().middleware(Starlette(routes=[Route("/", streaming)]))

    with pytest.raises(LookupError):
        await asked(app)


async def test_nested_middlewares_tell_once(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that passes several hooks is one exception."""
    unhandled = UnhandledExceptions()

    async def passing_on(_: Request, error: Exception) -> PlainTextResponse:
        raise error

    app = Starlette(
        routes=[Route("/", broken)],
        exception_handlers={Exception: passing_on},
        middleware=[Middleware(unhandled.middleware)],
    )

    await asked(unhandled.middleware(app))

    assert len(told(caplog)) == 1


async def test_a_task_nobody_awaits(caplog: pytest.LogCaptureFixture) -> None:
    """Its failure surfaces when it is collected; the handler that was there before hears of it as well."""
    passed_on: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()

    def before(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        passed_on.append(context)

    async def failing() -> None:
        raise LookupError("in a task")

    loop.set_exception_handler(before)
    async with UnhandledExceptions():
        task = asyncio.ensure_future(failing())
        await asyncio.wait((task,))
        del task
        gc.collect()
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    assert loop.get_exception_handler() is before
    assert [vars(record)["otel_health.where"] for record in told(caplog)] == ["task", "loop"]
    assert len(passed_on) == 2


async def test_a_thread(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a thread is told of and passed on; SystemExit is how a thread ends itself."""
    passed_on: list[object] = []
    monkeypatch.setattr(threading, "excepthook", passed_on.append)

    def raising(error: BaseException) -> None:
        raise error

    async with UnhandledExceptions():
        for error in (LookupError("in a thread"), SystemExit(1)):
            thread = threading.Thread(target=raising, args=(error,))
            thread.start()
            thread.join()

    assert [vars(record)["otel_health.where"] for record in told(caplog)] == ["thread"]
    assert len(passed_on) == 2
    assert threading.excepthook == passed_on.append


def test_a_program_that_dies(caplog: pytest.LogCaptureFixture) -> None:
    """Around a whole program it tells of what ends it, and lets it pass."""
    with pytest.raises(LookupError), UnhandledExceptions():
        raise LookupError("the end")
    with pytest.raises(KeyboardInterrupt), UnhandledExceptions():
        raise KeyboardInterrupt

    assert [vars(record)["otel_health.where"] for record in told(caplog)] == ["process"]


def test_the_process_hook_passes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What the interpreter was about to print is still printed."""
    passed_on: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *raised: passed_on.append(raised))
    error = LookupError("at the top")

    with UnhandledExceptions():
        sys.excepthook(LookupError, error, None)

    assert len(passed_on) == 1
    assert len(told(caplog)) == 1


def test_a_hook_that_somebody_else_has_put_on_top_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing puts back what was there only where our own hook still stands."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    newer: list[object] = []

    with UnhandledExceptions():
        threading.excepthook = newer.append

    assert threading.excepthook == newer.append


async def test_the_log_names_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    """An operator finds the request that broke."""
    tracer = TracerProvider().get_tracer("test")

    with tracer.start_as_current_span("request") as span:
        UnhandledExceptions().noticed(LookupError("gone"), "request")

    (record,) = told(caplog)
    assert vars(record)["otel_health.trace_id"] == trace.format_trace_id(span.get_span_context().trace_id)


async def test_a_rate_of_them_is_a_check() -> None:
    """Old ones are forgotten; the limits are those of any threshold."""
    now = 1000.0
    unhandled = UnhandledExceptions(clock=lambda: now)
    checker = Checker(ttl=1e-9)
    checker.add("exceptions", unhandled.rate(warn=2, fail=3, per=60.0), local=True)
    found = []

    for _ in range(4):
        found.append((await checker.run()).statuses["exceptions"])
        unhandled.noticed(LookupError("again"), "task")
    now += 61.0
    found.append((await checker.run()).statuses["exceptions"])

    assert found == [Status.PASS, Status.PASS, Status.WARN, Status.FAIL, Status.PASS]


def test_the_types_told_apart_are_bounded() -> None:
    """Series are no function of what is raised."""
    exporter = PrometheusExporter()
    unhandled = UnhandledExceptions(meter_provider=exporter.meter_provider)

    for number in range(200):
        unhandled.noticed(type(f"Error{number}", (Exception,), {})("gone"), "task")

    assert len(counted(exporter)) == 51
    assert any('error_type="other"' in line and line.endswith(" 150.0") for line in counted(exporter))


@pytest.fixture
def raising_logger() -> Iterator[logging.Logger]:
    """A logger whose handler raises."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's shape.
            raise OSError("disk full")

    logger = logging.getLogger("raising")
    handler = Raising()
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_a_log_handler_at_fault_costs_nothing(
    raising_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said on stderr, the exception is counted, and nothing is raised."""
    exporter = PrometheusExporter()
    unhandled = UnhandledExceptions(logger=raising_logger, meter_provider=exporter.meter_provider)

    unhandled.noticed(LookupError(SECRET), "task")

    assert len(counted(exporter)) == 1
    assert "telling of an unhandled LookupError raised OSError" in capsys.readouterr().err


async def test_one_exception_object_raised_again_counts_again() -> None:
    """A driver that keeps one and raises it for each request is as broken as any other."""
    exporter = PrometheusExporter()
    unhandled = UnhandledExceptions(meter_provider=exporter.meter_provider)
    shared = LookupError("pool closed")

    async def failing(_: Request) -> PlainTextResponse:
        raise shared

    app = unhandled.middleware(Starlette(routes=[Route("/", failing)]))
    for _ in range(3):
        await asked(app)

    assert counted(exporter)[0].endswith(" 3.0")


async def test_a_log_handler_that_dawdles_holds_up_no_request() -> None:
    """While it is open, telling is the work of a thread of its own."""
    let_go = threading.Event()

    class Dawdling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's shape.
            let_go.wait(5)

    logger = logging.Logger("dawdling")
    logger.addHandler(Dawdling())
    unhandled = UnhandledExceptions(logger=logger)
    app = unhandled.middleware(Starlette(routes=[Route("/", broken)]))

    async with unhandled:
        response = await asked(app)
        assert not let_go.is_set()
        let_go.set()

    assert response.status_code == 500


@pytest.mark.parametrize("per", [0, -1, float("nan"), True])
def test_a_rate_over_no_time_is_refused(per: float) -> None:
    """At registration."""
    with pytest.raises(ValueError, match="per"):
        UnhandledExceptions().rate(warn=1, per=per)


async def test_opening_twice_is_refused() -> None:
    """The hooks could not be put back in order."""
    async with UnhandledExceptions(meter_provider=MeterProvider()) as unhandled:
        with pytest.raises(RuntimeError, match="already open"):
            async with unhandled:
                pass


def quiet(app: ASGIApp) -> ASGIApp:
    """A server's part: whatever leaves the application ends here."""

    async def server(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except LookupError:
            return

    return server
