"""Other health libraries, each with checks that do nothing, behind the ASGI integration that it recommends.

They are optional: each is imported by the function that needs it.
"""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

CheckFunc = Callable[..., Awaitable[None]]


def fast_healthchecks(number: int, check: CheckFunc) -> ASGIApp:
    """Its router for FastAPI; a pass answers 200 here, where its default is 204."""
    from fast_healthchecks.checks.function import FunctionHealthCheck
    from fast_healthchecks.execution import Probe
    from fast_healthchecks.integrations.base import build_probe_route_options
    from fast_healthchecks.integrations.fastapi import HealthcheckRouter
    from fastapi import FastAPI

    checks = [FunctionHealthCheck(func=check, name=f"check-{each}") for each in range(number)]
    app = FastAPI()
    app.include_router(
        HealthcheckRouter(Probe("readiness", checks), options=build_probe_route_options(success_status=200))
    )
    return app


def django_health_check(number: int, check: CheckFunc) -> ASGIApp:
    """Its view in a Django project of nothing else: no middleware, no database."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.urls import path
    from health_check.base import HealthCheck
    from health_check.views import HealthCheckView

    component = dataclasses.make_dataclass("Component", [("name", str)], bases=(HealthCheck,), namespace={"run": check})
    view = HealthCheckView.as_view(checks=[(component, {"name": f"check-{each}"}) for each in range(number)])
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"], INSTALLED_APPS=["health_check"], ROOT_URLCONF=(path("health/", view),)
    )
    django.setup()
    app: ASGIApp = get_asgi_application()
    return app


def probirka(number: int, check: CheckFunc) -> ASGIApp:
    """Its ASGI application in a route of Starlette, with results kept for 30 s as in its README."""
    from probirka import Probirka, make_asgi_app

    checks = Probirka(success_ttl=30)
    for each in range(number):
        checks.add(name=f"check-{each}")(check)
    return Starlette(routes=[Route("/health", make_asgi_app(checks))])


def pulsecheck(number: int, check: CheckFunc) -> ASGIApp:
    """Its router for FastAPI."""
    from fastapi import FastAPI
    from pulsecheck.core import HealthRegistry
    from pulsecheck.core.checks.base import CheckConfig
    from pulsecheck.core.models import HealthCheckResult, HealthStatus
    from pulsecheck.fastapi import make_health_router

    async def healthy() -> HealthCheckResult:
        await check()
        return HealthCheckResult(status=HealthStatus.HEALTHY)

    registry = HealthRegistry(environment="benchmark")
    for each in range(number):
        registry.register(SimpleNamespace(config=CheckConfig(name=f"check-{each}"), check=healthy))
    app = FastAPI()
    app.include_router(make_health_router(registry))
    return app


def svcs(number: int, check: CheckFunc) -> ASGIApp:
    """A Starlette route that pings every registered service one after the other, as its documentation shows."""
    import svcs

    services = [type(f"Service{each}", (), {}) for each in range(number)]

    async def opened(_: Starlette, registry: svcs.Registry) -> AsyncGenerator[dict[str, object], None]:
        for service in services:
            registry.register_value(service, service(), ping=check)
        yield {}

    async def healthy(request: Request) -> JSONResponse:
        ok, failing = [], {}
        for service in svcs.starlette.get_pings(request):
            try:
                await service.aping()
                ok.append(service.name)
            except Exception as error:  # noqa: BLE001 - as its documentation does.
                failing[service.name] = repr(error)
        return JSONResponse({"ok": ok, "failing": failing}, status_code=500 if failing else 200)

    return Starlette(
        routes=[Route("/health", healthy)],
        lifespan=svcs.starlette.lifespan(opened),
        middleware=[Middleware(svcs.starlette.SVCSMiddleware)],
    )


APPS: Final[dict[str, Callable[[int, CheckFunc], ASGIApp]]] = {
    "fast-healthchecks": fast_healthchecks,
    "django-health-check": django_health_check,
    "probirka": probirka,
    "pulsecheck": pulsecheck,
    "svcs": svcs,
}
PATHS: Final = {
    "fast-healthchecks": "/health/readiness",
    "django-health-check": "/health/?format=json",
    "probirka": "/health",
    "pulsecheck": "/health/ready",
    "svcs": "/health",
}
DISTRIBUTIONS: Final = {
    "fast-healthchecks": "fast-healthchecks",
    "django-health-check": "django-health-check",
    "probirka": "probirka",
    "pulsecheck": "pulsecheck-py",
    "svcs": "svcs",
}
