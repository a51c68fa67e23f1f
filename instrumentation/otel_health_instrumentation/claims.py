"""Whether an application has a route of its own: then it is left alone there."""

import sys
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import Host, Match, Router

Find = Callable[[str], Hashable | None]
"""What an application would answer a path with, told apart from what it would answer others with; None is a 404."""

STRANGER: Final = "-which-nobody-has"
INNER: Final = ("app", "application", "wsgi", "other_asgi_app", "wsgi_application")
"""Where middlewares keep what they wrap."""

DEPTH: Final = 32


def claims(app: object, path: str, below: str = "") -> bool:
    """Return whether the application names this path itself, or what is asked for below it.

    A route that would take another path as well (a page for whatever is not found, `/{name}`, an application mounted at
    the root) is no claim. Neither is what an application of a kind that is not known here may do.

    Args:
        app: The application.
        path: That of a page of ours; a slash behind it makes no difference.
        below: What stands behind it in the request, such as `/ready`.
    """
    below = below.rstrip("/")
    if _is_mounted(app, path, below):
        return True
    find = _finder(app)
    if find is None:
        return False
    for rest in dict.fromkeys(("", "/", below, f"{below}/")):
        found = find(path + rest)
        if found is not None and found != find(path + STRANGER + rest):
            return True
    return False


def _is_mounted(app: object, path: str, below: str) -> bool:
    """Whether a middleware outside or inside of the application, as werkzeug's dispatcher, has another at this path."""
    asked = f"{path}{below}/"
    for _ in range(DEPTH):
        mounts = getattr(app, "mounts", None)
        if isinstance(mounts, dict) and any(at.startswith(path) and asked.startswith(f"{at}/") for at in mounts):
            return True
        inner = _inner(app)
        if inner is None:
            return False
        app = inner
    return False


def _inner(app: object) -> object | None:
    by_protocol = getattr(app, "application_mapping", None)  # Django's Channels have one for each.
    if isinstance(by_protocol, dict):
        return by_protocol.get("http")
    # A method of that name, as of every Flask, leads nowhere; what was put in its place does.
    held = getattr(app, "__dict__", {}).get("wsgi_app")
    return next((found for name in INNER if (found := getattr(app, name, None)) is not None), held)


def _finder(app: object) -> Find | None:
    for _ in range(DEPTH):
        if isinstance(app, Starlette | Router):
            routes = app.routes
            return lambda path: _in_starlette(routes, {"type": "http", "method": "GET", "path": path, "headers": []})
        if hasattr(app, "url_map"):
            adapter = app.url_map.bind("localhost")
            return lambda path: _in_werkzeug(adapter, path)
        django = sys.modules.get("django.core.handlers.base")
        if django is not None and isinstance(app, django.BaseHandler):
            return _in_django
        inner = _inner(app)
        if inner is None:
            return None
        app = inner
    return None


def _in_starlette(routes: Iterable[Any], scope: dict[str, Any]) -> Hashable | None:
    for route in _flat(routes):
        # Whichever host it is asked at, what is there for one host is the application's own.
        original = getattr(route, "original_route", route)
        match, child = (Match.FULL, {}) if isinstance(original, Host) else route.matches(scope)
        if match is Match.NONE:
            continue
        below = getattr(route, "routes", None)
        if not below:
            return getattr(route, "path", None), id(original)
        found = _in_starlette(below, {**scope, **child})
        if found is not None:
            return found
    return None


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """The routes of routers that FastAPI keeps as one route each."""
    fastapi = sys.modules.get("fastapi.routing")
    flatten = getattr(fastapi, "iter_route_contexts", None)
    return routes if flatten is None else flatten(routes)


def _in_werkzeug(adapter: Any, path: str) -> Hashable | None:
    from werkzeug.exceptions import HTTPException, NotFound

    try:
        rule, _ = adapter.match(path, method="GET", return_rule=True)
    except NotFound:
        return None
    except HTTPException as error:  # Another method, or a redirect to where it is.
        return type(error).__name__
    return id(rule)


def _in_django(path: str) -> Hashable | None:
    from django.urls import Resolver404, resolve

    try:
        return str(resolve(path).route)
    except Resolver404:
        return None
