"""Where an application has a route of its own it is left alone."""

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

from otel_health import Checker
from otel_health_instrumentation.claims import claims
from tests.instrumentation.processes import in_fresh_interpreter


async def own(_: Any) -> PlainTextResponse:
    """An endpoint of the application's."""
    return PlainTextResponse("mine")


async def unknown(scope: Any, receive: Any, send: Any) -> None:
    """An application of a kind that nobody knows."""


STARLETTE = {
    "its own": ([Route("/livez", own)], True),
    "with a slash": ([Route("/livez/", own)], True),
    "by another method": ([Route("/livez", own, methods=["POST"])], True),
    "in a mounted application": ([Mount("/", Starlette(routes=[Route("/livez", own)]))], True),
    "at a host": ([Host("orders.example", Starlette(routes=[Route("/livez", own)]))], True),
    "before what takes everything": ([Route("/livez", own), Route("/{page}", own)], True),
    "of this library": (Checker().routes(), True),
    "another": ([Route("/live", own)], False),
    "what takes everything": ([Route("/{page:path}", own)], False),
    "an unknown application at the root": ([Mount("/", unknown)], False),
    "below a prefix": ([Mount("/app", routes=[Route("/livez", own)])], False),
    "none": ([], False),
}


@pytest.mark.parametrize(("routes", "claimed"), STARLETTE.values(), ids=STARLETTE)
def test_starlette(routes: list[Any], claimed: bool) -> None:  # noqa: FBT001 - a parameter of the test.
    """A route that names the path is a claim, wherever it is mounted; one that takes whatever comes is none."""
    assert claims(Starlette(routes=routes), "/livez") is claimed


BELOW = {
    "its own": ([Route("/healthz/ready", own)], True),
    "with a slash": ([Route("/healthz/ready/", own)], True),
    "whatever is below": ([Route("/healthz/{part}", own)], True),
    "in a mounted application": ([Mount("/healthz", routes=[Route("/ready", own)])], True),
    "another": ([Route("/healthz/live", own)], False),
    "whatever is above": ([Route("/{service}/ready", own)], False),
    "what takes everything": ([Route("/{page:path}", own)], False),
}


@pytest.mark.parametrize(("routes", "claimed"), BELOW.values(), ids=BELOW)
def test_what_stands_below_a_page(routes: list[Any], claimed: bool) -> None:  # noqa: FBT001 - as above.
    """Many have probes at `/healthz/ready` and `/healthz/live`, and nothing at `/healthz`."""
    app = Starlette(routes=routes)

    assert claims(app, "/healthz", "/ready") is claimed
    assert claims(app, "/healthz", "/ready/") is claimed
    assert not claims(app, "/healthz")


@pytest.mark.parametrize("included", [False, True])
def test_fastapi(included: bool) -> None:  # noqa: FBT001 - a parameter of the test.
    """Routers that are included keep their routes to themselves, and are asked for them."""
    app = FastAPI()
    routes = APIRouter() if included else app.router
    routes.add_api_route("/livez", own)
    routes.add_api_route("/{page}", own)
    if included:
        app.include_router(routes)

    assert claims(app, "/livez")
    assert not claims(app, "/readyz")


def test_fastapi_under_a_prefix() -> None:
    """An included router's prefix counts."""
    app, router = FastAPI(), APIRouter()
    router.add_api_route("/livez", own)
    app.include_router(router, prefix="/health")

    assert claims(app, "/health/livez")
    assert not claims(app, "/livez")


def test_behind_middlewares() -> None:
    """The application is looked for behind whatever was put around it."""
    app = CORSMiddleware(CORSMiddleware(Starlette(routes=[Route("/livez", own)])))

    assert claims(app, "/livez")


@pytest.mark.parametrize("name", ["app", "other_asgi_app", "wsgi_app", "wsgi_application"])
def test_behind_what_other_libraries_put_around_it(name: str) -> None:
    """By the names under which python-socketio and asgiref keep it."""
    around = SimpleNamespace(**{name: Starlette(routes=[Route("/livez", own)])})

    assert claims(around, "/livez")
    assert not claims(around, "/readyz")


def test_behind_what_divides_by_protocols() -> None:
    """As the Channels of Django do, whose outermost application it is."""
    app = Starlette(routes=[Route("/livez", own)])

    assert claims(SimpleNamespace(application_mapping={"http": app, "websocket": unknown}), "/livez")
    assert not claims(SimpleNamespace(application_mapping={"websocket": unknown}), "/livez")


def test_nobody_knows() -> None:
    """What cannot be asked claims nothing, not even if it is wrapped around itself."""
    endless = CORSMiddleware(unknown)
    endless.app = endless

    assert not claims(unknown, "/livez")
    assert not claims(endless, "/livez")


def test_flask() -> None:
    """By its map of routes."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("orders")
    app.add_url_rule("/livez", "livez", lambda: "mine")
    app.add_url_rule("/startupz/", "startupz", lambda: "mine", methods=["POST"])
    app.add_url_rule("/<page>", "page", lambda page: page)

    assert claims(app, "/livez")
    assert claims(app, "/startupz")
    assert not claims(app, "/readyz")
    app.add_url_rule("/healthz/<part>", "part", lambda part: part)
    assert claims(app, "/healthz", "/ready")
    assert not claims(app, "/healthz", "/ready/of/what")


def test_flask_behind_a_dispatcher() -> None:
    """What was put around the application, or into its `wsgi_app`, has paths as well."""
    flask, middleware = pytest.importorskip("flask"), pytest.importorskip("werkzeug.middleware")
    dispatcher = pytest.importorskip(f"{middleware.__name__}.dispatcher").DispatcherMiddleware
    proxied = pytest.importorskip(f"{middleware.__name__}.proxy_fix").ProxyFix
    app = flask.Flask("orders")
    app.wsgi_app = proxied(dispatcher(app.wsgi_app, {"/metrics": unknown}))
    around = dispatcher(flask.Flask("orders"), {"/metrics": unknown})

    assert [claims(each, "/metrics") for each in (app, around)] == [True, True]
    assert [claims(each, "/livez") for each in (app, around)] == [False, False]
    below = dispatcher(flask.Flask("orders"), {"/healthz/orders": unknown})
    assert [claims(below, "/healthz", each) for each in ("/orders", "/orders/ready", "/orders-2", "")] == [True] * 2 + [
        False
    ] * 2


DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__)
from django.urls import include, path, re_path
from django.core.wsgi import get_wsgi_application
mine = lambda request: None
urlpatterns = [path("livez", mine), path("", include([path("startupz/", mine)])), re_path(r"^.*$", mine)]
urlpatterns.insert(0, path("healthz/", include([path("ready", mine)])))
from otel_health_instrumentation.claims import claims
app = get_wsgi_application()
print([claims(app, each) for each in ("/livez", "/startupz", "/readyz", "/healthz")], claims(app, "/healthz", "/ready"))
"""


def test_django() -> None:
    """By its URL patterns, in a process of its own: Django is configured once in a life."""
    pytest.importorskip("django")

    assert in_fresh_interpreter(DJANGO) == "[True, True, False, False] True"
