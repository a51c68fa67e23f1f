"""Beside OpenTelemetry's own instrumentors, whoever comes first and whoever leaves first."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import fastapi
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette import applications
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_health_instrumentation import HealthInstrumentor
from tests.instrumentation.asking import asked_anew
from tests.instrumentation.processes import in_fresh_interpreter

of_asgi = pytest.importorskip("opentelemetry.instrumentation.asgi")
of_fastapi = pytest.importorskip("opentelemetry.instrumentation.fastapi")
of_flask = pytest.importorskip("opentelemetry.instrumentation.flask")
of_starlette = pytest.importorskip("opentelemetry.instrumentation.starlette")
of_wsgi = pytest.importorskip("opentelemetry.instrumentation.wsgi")
flask = pytest.importorskip("flask")

ASKED = ("/livez", "/readyz/", "/startupz?verbose", "/healthz", "/metrics")

Ask = Callable[[str], int]


class Seen:
    """What OpenTelemetry has seen of requests."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider([self._metrics])

    def anything(self) -> bool:
        """Whether it has seen any request since this was last asked."""
        seen = bool(self._spans.get_finished_spans())
        self._spans.clear()
        return seen

    def measured(self) -> bool:
        """Whether it has measured anything at all."""
        return self._metrics.get_metrics_data() is not None


@pytest.fixture
def seen() -> Seen:
    """What OpenTelemetry sees in this test."""
    return Seen()


async def hello(_: Any) -> PlainTextResponse:
    """The application's own page."""
    return PlainTextResponse("hello")


def of_asgi_app(app: Any) -> Ask:
    """Ask an ASGI application."""
    ask = asked_anew(app)
    return lambda path: ask(path).status_code


def of_wsgi_app(app: Any) -> Ask:
    """Ask a WSGI application."""
    from werkzeug.test import Client

    client = Client(app)
    return lambda path: int(client.get(path).status_code)


def starlette_app() -> Ask:
    """An application of the class that is there now."""
    return of_asgi_app(applications.Starlette(routes=[Route("/", hello)]))


def fastapi_app() -> Ask:
    """An application of the class that is there now."""
    app = fastapi.FastAPI()
    app.get("/")(lambda: "hello")
    return of_asgi_app(app)


def flask_app() -> Ask:
    """An application of the class that is there now."""
    app = flask.Flask("orders")
    app.add_url_rule("/", "hello", lambda: "hello")
    return of_wsgi_app(app)


INSTRUMENTORS = {
    "starlette": (of_starlette.StarletteInstrumentor, starlette_app),
    "fastapi": (of_fastapi.FastAPIInstrumentor, fastapi_app),
    "flask": (of_flask.FlaskInstrumentor, flask_app),
}


@pytest.fixture(params=list(INSTRUMENTORS))
def theirs(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Callable[[], Ask]]]:
    """One of OpenTelemetry's instrumentors, and what makes an application of its framework."""
    instrumentor, make = INSTRUMENTORS[request.param]
    yield instrumentor(), make
    for each in (instrumentor(), HealthInstrumentor()):
        if each.is_instrumented_by_opentelemetry:
            each.uninstrument()


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("ours_leaves_first", [False, True])
def test_neither_loses_its_wrapper(theirs: Any, seen: Seen, *, ours_first: bool, ours_leaves_first: bool) -> None:
    """Each does what it does in whatever order they come and go, and probes are in nobody's spans and metrics."""
    classes = (applications.Starlette, fastapi.FastAPI, flask.Flask)
    before = [dict(vars(each)) for each in classes]
    their_instrumentor, make = theirs
    ours = HealthInstrumentor()
    providers = {"tracer_provider": seen.tracer_provider, "meter_provider": seen.meter_provider}
    if ours_first:
        ours.instrument()
    their_instrumentor.instrument(**providers)
    if not ours_first:
        ours.instrument()
    ask = make()

    assert [ask(path) for path in ASKED] == [200] * len(ASKED)
    assert (seen.anything(), seen.measured()) == (False, False)
    assert ask("/") == 200
    assert (seen.anything(), seen.measured()) == (True, True)

    (ours if ours_leaves_first else their_instrumentor).uninstrument()
    ask = ask if ours_leaves_first else make()  # Theirs of Flask leaves in place what it has put into applications.
    assert (ask("/livez") == 200) is not ours_leaves_first
    assert ask("/") == 200
    assert seen.anything() is ours_leaves_first

    (their_instrumentor if ours_leaves_first else ours).uninstrument()
    assert ask("/livez") == 404
    assert (applications.Starlette, fastapi.FastAPI, flask.Flask) == classes
    assert [dict(vars(each)) for each in classes] == before


def test_a_middleware_of_theirs_outside_of_everything(seen: Seen) -> None:
    """Whoever puts it around the whole application has no spans of probes either: we stand outside of it."""
    providers = {"tracer_provider": seen.tracer_provider, "meter_provider": seen.meter_provider}
    inner = flask.Flask("orders")
    inner.add_url_rule("/", "hello", lambda: "hello")
    HealthInstrumentor().instrument()
    try:
        for ask in (
            of_asgi_app(
                of_asgi.OpenTelemetryMiddleware(applications.Starlette(routes=[Route("/", hello)]), **providers)
            ),
            of_wsgi_app(of_wsgi.OpenTelemetryMiddleware(inner, **providers)),
        ):
            assert [ask(path) for path in ASKED] == [200] * len(ASKED)
            assert not seen.anything()
            assert ask("/") == 200
            assert seen.anything()
    finally:
        HealthInstrumentor().uninstrument()


def test_a_framework_that_traces_by_itself(seen: Seen) -> None:
    """FastAPI does, since it has telemetry of its own: we stand outside of that as well."""
    if "telemetry" not in inspect.signature(fastapi.FastAPI).parameters:
        pytest.skip("this FastAPI has no telemetry of its own")
    app = fastapi.FastAPI(
        telemetry={"tracer_provider": seen.tracer_provider, "meter_provider": seen.meter_provider},
    )
    app.get("/")(lambda: "hello")
    ask = of_asgi_app(app)
    HealthInstrumentor().instrument()
    try:
        assert [ask(path) for path in ASKED] == [200] * len(ASKED)
        assert (seen.anything(), seen.measured()) == (False, False)
        assert ask("/") == 200
        assert seen.anything()
    finally:
        HealthInstrumentor().uninstrument()


DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", MIDDLEWARE=[])
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
from django.core.wsgi import get_wsgi_application
from opentelemetry.instrumentation.django import DjangoInstrumentor
from otel_health_instrumentation import HealthInstrumentor
from tests.instrumentation.test_beside import ASKED, Seen, of_wsgi_app

ours, theirs = HealthInstrumentor(), DjangoInstrumentor()
for first in (ours, theirs):
    for leaving in (ours, theirs):
        seen = Seen()
        providers = {"tracer_provider": seen.tracer_provider, "meter_provider": seen.meter_provider}
        for each in (first, theirs if first is ours else ours):
            each.instrument(**(providers if each is theirs else {}))
        ask = of_wsgi_app(get_wsgi_application())
        assert [ask(path) for path in ASKED] == [200] * len(ASKED)
        assert not seen.anything()
        assert ask("/") == 200 and seen.anything()
        leaving.uninstrument()
        # Django builds its middlewares when the application is made.
        ask = of_wsgi_app(get_wsgi_application())
        assert (ask("/livez") == 200) is (leaving is theirs)
        assert ask("/") == 200 and seen.anything() is (leaving is ours)
        (theirs if leaving is ours else ours).uninstrument()
        assert settings.MIDDLEWARE == []
print("held")
"""


def test_beside_theirs_of_django() -> None:
    """The same, in a process of its own: Django is configured once in a life."""
    pytest.importorskip("opentelemetry.instrumentation.django")

    assert in_fresh_interpreter(DJANGO) == "held"
