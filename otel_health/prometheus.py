"""A meter provider that Prometheus can scrape, and the route it scrapes."""

import asyncio
import gzip
import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from otel_health.compose import set_once
from otel_health.threads import Threads, call_on

CARDINALITY_LIMIT: Final = 100_000
"""Attribute sets of one stream, where the reader lets us raise the SDK's 2,000 (exporter 0.66b2 and later)."""

SCRAPE_SECONDS: Final = 10.0
"""How long a scraper waits that does not say how long (Prometheus' own default)."""

_NO_STORE: Final = {"cache-control": "no-store"}


class ScrapeError(Exception):
    """A collector on the registry raised."""


class Scrape(NamedTuple):
    """What a scraper gets."""

    text: bytes
    media_type: str


class Siblings(Protocol):
    """The other workers of a service, which this one shows beside itself."""

    async def texts(self, accept: str) -> dict[str, bytes]:
        """Return what each of them measures; none, where there are no others."""

    def merged(self, own: bytes, others: Mapping[str, bytes]) -> bytes:
        """Return one text of this worker's and the others'."""


class PrometheusExporter:
    """Metrics for Prometheus: a MeterProvider with a reader on a registry of its own, scope labels off.

    Args:
        service_name: The resource's `service.name`, shown in `target_info`.
        meter_provider: A provider of the SDK that exists already: all that it measures is shown, and nothing is made.

    Raises:
        ValueError: Both are given, but the name belongs to the resource of a provider that is made here.
        TypeError: The provider takes no reader: it is not the SDK's, or the SDK has not been configured yet.

    Example:
        >>> exporter = PrometheusExporter(service_name="orders")
        >>> checker = Checker(meter_provider=exporter.meter_provider)
        >>> routes = [*checker.routes(), exporter.route("/metrics")]
    """

    def __init__(self, service_name: str | None = None, *, meter_provider: MeterProvider | None = None) -> None:
        if service_name is not None and meter_provider is not None:
            raise ValueError("PrometheusExporter: give service_name to the resource of your own meter_provider instead")
        if meter_provider is not None and not hasattr(meter_provider, "add_metric_reader"):
            raise TypeError(
                f"PrometheusExporter: meter_provider is a {type(meter_provider).__name__}, to which no reader can be "
                "added; pass the SDK's MeterProvider, or none to have one made"
            )
        self.registry = CollectorRegistry()
        """What is scraped; collectors of prometheus-client may be registered here too."""
        options: dict[str, Any] = {"scope_info_enabled": False, "registry": self.registry}
        # Only of what is measured here: an application's own instruments keep to the limits that it knows.
        limited = (
            meter_provider is None
            and "cardinality_limits" in inspect.signature(PrometheusMetricReader.__init__).parameters
        )
        if limited:
            options["cardinality_limits"] = dict.fromkeys(
                (Counter, Histogram, ObservableCounter, ObservableGauge, ObservableUpDownCounter, UpDownCounter),
                CARDINALITY_LIMIT,
            )
        self._reader = PrometheusMetricReader(**options)
        self._made = meter_provider is None
        if meter_provider is None:
            resource = Resource.create({} if service_name is None else {SERVICE_NAME: service_name})
            meter_provider = MeterProvider([self._reader], resource=resource)
            if limited:
                meter_provider.cardinality_limit = CARDINALITY_LIMIT  # type: ignore[attr-defined]
        else:
            meter_provider.add_metric_reader(self._reader)
        self.meter_provider = meter_provider
        # One thread: the reader's collect is not safe for two, and a callback that hangs holds up scrapes alone.
        self._thread = Threads(working=1, total=1)
        self.siblings: Siblings | None = None
        """Whom a scrape shows beside this process; `Workers` sets it."""

    def route(self, path: str = "/metrics") -> Route:
        """Return the route that answers scrapes: 200 whatever the health is, in the format that was asked for."""
        return Route(path, _Endpoint(self._answer), name="metrics", include_in_schema=False)

    def shutdown(self) -> None:
        """Stop collecting; later scrapes find nothing of the provider, which goes on if it was there before."""
        self._thread.close()
        if self._made:
            self.meter_provider.shutdown()
        else:
            self.meter_provider.remove_metric_reader(self._reader)

    async def scraped(self, accept: str = "", *, zipped: bool = False, patience: float = SCRAPE_SECONDS) -> Scrape:
        """Collect and encode everything on the registry, in a thread.

        Args:
            accept: The scraper's `Accept` header.
            zipped: Whether to compress the text.
            patience: Seconds to wait for it.

        Raises:
            TimeoutError: A collector, or the scrapes before this one, took longer.
            ScrapeError: A collector raised.
        """
        encode, media_type = choose_encoder(accept)
        siblings = self.siblings
        if siblings is None:
            return Scrape(
                await self._collected(lambda: _zipped(encode(self.registry), zipped=zipped), patience), media_type
            )
        ends = time.monotonic() + patience
        text = await self._collected(lambda: encode(self.registry), patience)
        others = await siblings.texts(accept)

        def finish() -> bytes:
            return _zipped(siblings.merged(text, others) if others else text, zipped=zipped)

        return Scrape(await self._collected(finish, max(ends - time.monotonic(), 0.0)), media_type)

    async def own(self, accept: str = "") -> bytes:
        """Collect and encode what this process measures, without its siblings; raises as `scraped` does."""
        encode, _ = choose_encoder(accept)
        return await self._collected(lambda: encode(self.registry), SCRAPE_SECONDS)

    async def _collected(self, make: Callable[[], bytes], patience: float) -> bytes:
        """Have a text made in the exporter's thread."""
        loop = asyncio.get_running_loop()
        collected: asyncio.Future[bytes | ScrapeError] = loop.create_future()

        def collect() -> None:
            try:
                text: bytes | ScrapeError = make()
            except BaseException as error:  # noqa: BLE001 - a collector of the application's own may raise anything.
                text = ScrapeError(f"collecting the metrics raised {type(error).__name__}")
            call_on(loop, set_once, collected, text)

        job = self._thread.submit(collect)
        done, _ = await asyncio.wait((collected,), timeout=patience)
        if not done:
            self._thread.withdraw(job)
            raise TimeoutError("collecting the metrics takes too long")
        text = collected.result()
        if isinstance(text, ScrapeError):
            raise text
        return text

    async def _answer(self, request: Request) -> Response:
        zipped = "gzip" in request.headers.get("accept-encoding", "")
        try:
            text, media_type = await self.scraped(
                request.headers.get("accept", ""), zipped=zipped, patience=_patience(request)
            )
        except TimeoutError as late:
            return PlainTextResponse(f"{late}\n", 503, _NO_STORE)
        except ScrapeError as error:
            return PlainTextResponse(f"{error}\n", 500, _NO_STORE)
        encoding = {"content-encoding": "gzip", "vary": "accept-encoding"} if zipped else {}
        return Response(text, 200, {**_NO_STORE, **encoding, "content-type": media_type})


class _Endpoint:
    """The ASGI side of a scrape: GET and HEAD, and a clear no to all else."""

    def __init__(self, scrape: Callable[[Request], Any]) -> None:
        self._scrape = scrape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            response: Response = await self._scrape(Request(scope))
        else:
            response = PlainTextResponse("method not allowed\n", 405, {**_NO_STORE, "allow": "GET, HEAD"})
        await response(scope, receive, send)


def _zipped(text: bytes, *, zipped: bool) -> bytes:
    return gzip.compress(text, 1) if zipped else text


def _patience(request: Request) -> float:
    """How long the scraper waits, as Prometheus says it in its own header."""
    try:
        seconds = float(request.headers.get("x-prometheus-scrape-timeout-seconds", ""))
    except ValueError:
        return SCRAPE_SECONDS
    return seconds if math.isfinite(seconds) and 0 < seconds < SCRAPE_SECONDS else SCRAPE_SECONDS
