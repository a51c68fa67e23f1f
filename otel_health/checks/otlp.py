"""The telemetry itself: whether what OpenTelemetry's SDK exports arrives, and whether its queues hold."""

import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, Final, Protocol, cast

from otel_health.check import CheckFunc, Degraded, Failed, observed, require_seconds, require_shares
from otel_health.client.requests import ask, require_request
from otel_health.client.streams import Trust

_REMEMBERED: Final = 10_000
"""Exports between two runs that are counted."""

_PROTOBUF: Final = "application/x-protobuf"


class Exporter(Protocol):
    """What is used of an exporter of spans, metrics or logs."""

    @property
    def export(self) -> Callable[..., Any]: ...


class Reader(Protocol):
    """What is used of an `InMemoryMetricReader` of OpenTelemetry's SDK."""

    def get_metrics_data(self) -> Any: ...


def accepts(
    endpoint: str,
    *,
    headers: Mapping[str, str] | None = None,
    public: bool = False,
    context: ssl.SSLContext | None = None,
) -> CheckFunc:
    """Return a check that a Collector, or a backend, takes an export over HTTP with nothing in it.

    It proves that the endpoint is reached as a new client would, speaks OTLP, and lets these headers in. Nothing is
    stored. It does not prove that the receiver passes on what it takes (`exports` sees what it refuses), and asks only
    receivers of OTLP over HTTP. Where it connects, and where it never does, is as with `http`; redirects are not
    followed. Cost: a connection and a request. Every 30 s is fine.

    Args:
        endpoint: The URL of one signal, as the exporter has it, such as `http://collector:4318/v1/traces`.
        headers: Those that the exporter sends, for authorisation.
        public: Whether the receiver is on the Internet, so that it must not lead to a private address.
        context: Verifies the certificate instead of the system's authorities.

    Raises:
        ValueError: An argument makes no sense, or the target is one that is never asked.

    Example:
        >>> checker.add("collector", otlp.accepts("http://collector:4318/v1/traces"), critical=False)
    """
    sent = {"Content-Type": _PROTOBUF, **(headers or {})}
    asked = require_request("otlp", endpoint, method="POST", headers=sent, public=public)
    request, trust = replace(asked, body=b""), Trust("otlp", context)

    async def check() -> None:
        answer = await ask(request, trust, read_body=True)
        if not 200 <= answer.status < 300:
            raise Failed(f"answered {answer.status}")
        if answer.body and not answer.headers.get("content-type", "").startswith(_PROTOBUF):
            raise Failed(f"answered {answer.status}, but not as a receiver of OTLP does")

    return check


def exports(exporter: Exporter, *, stuck_after: float = 60.0, silent_after: float | None = None) -> CheckFunc:
    """Return a check that what this exporter sends arrives; observes `exports` and `failed` since the last run.

    It fails while the last export has failed, which has lost what was in it, and while one is under way for too long;
    it warns if some have failed since the last run. From this call on it stands before the exporter's `export`, and
    sees what the processor or reader sees; it exports nothing itself. Cost: none. Every 10 to 30 s is fine.

    Args:
        exporter: The exporter of spans, metrics or logs that the application gives to its processor or reader.
        stuck_after: Seconds that an export may take; more than the exporter's own timeout.
        silent_after: Seconds without any export from which it fails; never, if you do not say. For an exporter of
            metrics, which is due in any case: a few of its intervals.

    Raises:
        TypeError: It is no such exporter, or its `export` cannot be stood before.
        ValueError: A time is no number of seconds.

    Example:
        >>> checker.add("traces", otlp.exports(exporter), critical=False)
    """
    if not callable(getattr(exporter, "export", None)):
        raise TypeError(
            f"otlp.exports: {type(exporter).__name__} is no exporter; pass the one that the application gives to its "
            "processor or reader"
        )
    require_seconds("otlp.exports", "stuck_after", stuck_after)
    if silent_after is not None:
        require_seconds("otlp.exports", "silent_after", silent_after)
    ended: deque[tuple[float, bool]] = deque(maxlen=_REMEMBERED)
    under_way: dict[object, tuple[int, float]] = {}
    _stand_before(exporter, ended, under_way)
    last, arrived = time.monotonic(), True

    async def check() -> Mapping[str, float]:
        nonlocal last, arrived
        recent = [ended.popleft() for _ in range(len(ended))]
        if recent:
            last, arrived = recent[-1]
        failed = sum(not success for _, success in recent)
        found = observed({"exports": len(recent), "failed": failed})
        now = time.monotonic()
        # A forked child inherits what is under way in its parent, and no thread that would end it.
        oldest = min((begun for pid, begun in list(under_way.values()) if pid == os.getpid()), default=now)
        if now - oldest >= stuck_after:
            raise Failed(f"an export has been under way for {now - oldest:.0f} s", **found)
        if not arrived:
            raise Failed("the last export failed, and what was in it is lost", **found)
        if silent_after is not None and now - last >= silent_after:
            raise Failed(f"nothing has been exported for {now - last:.0f} s", **found)
        if failed:
            raise Degraded(f"{failed} of {len(recent)} exports failed, and what was in them is lost", **found)
        return found

    return check


def queue_use(reader: Reader, *, warn: float = 0.8) -> CheckFunc:
    """Return a check that the SDK's queues of spans and logs hold; observes `queue_use` and `dropped`.

    `queue_use` is the share of the fullest queue that is taken: from `warn` on it warns. It fails if something was
    dropped for want of room since the last run: `dropped` says how much. The SDK (1.43 or newer) tells of its queues
    in metrics of its own where `OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=true` is set before a processor is made.
    Cost: one collection of the reader. Every 10 s is fine.

    Args:
        reader: An `InMemoryMetricReader` of a `MeterProvider` that the processors are given as `meter_provider`.
            Give it a provider of its own: everything that a provider has is collected at each run.
        warn: The share from which it warns.

    Raises:
        TypeError: It is no such reader.
        ValueError: `warn` is no share.

    Example:
        >>> reader = InMemoryMetricReader()
        >>> processor = BatchSpanProcessor(exporter, meter_provider=MeterProvider([reader]))
        >>> checker.add("span-queue", otlp.queue_use(reader), critical=False)
    """
    require_shares("otlp.queue_use", warn=warn)
    if not callable(getattr(reader, "get_metrics_data", None)):
        raise TypeError(
            f"otlp.queue_use: {type(reader).__name__} is no InMemoryMetricReader; pass one whose MeterProvider the "
            "processor is given"
        )
    observed({"warn": warn})
    dropped_before = 0.0

    def check() -> Mapping[str, float]:
        nonlocal dropped_before
        sizes, capacities, dropped = {}, {}, 0.0
        for name, attributes, value in _points(reader.get_metrics_data()):
            queue = name.split(".")[3], attributes.get("otel.component.name")
            if name.endswith(".queue.size"):
                sizes[queue] = value
            elif name.endswith(".queue.capacity"):
                capacities[queue] = value
            elif name.endswith(".processed") and attributes.get("error.type") == "queue_full":
                dropped += value
        if not sizes.keys() & capacities.keys():
            raise Failed(
                "the SDK tells of no queue; set OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=true before a batch processor "
                "is made, and give it the reader's MeterProvider"
            )
        lost, dropped_before = dropped - dropped_before, dropped
        use = max(sizes[queue] / max(capacities[queue], 1) for queue in sizes.keys() & capacities.keys())
        found = observed({"queue_use": use, "dropped": lost})
        if lost:
            raise Failed(f"{lost:.0f} were dropped, since a queue was full", **found)
        if use >= warn:
            raise Degraded(f"queue_use is {use:g}; warn is at {warn:g}", **found)
        return found

    return check


def _stand_before(exporter: Exporter, ended: deque[tuple[float, bool]], under_way: dict[object, Any]) -> None:
    export = exporter.export

    @wraps(export)
    def watched(*args: Any, **options: Any) -> Any:
        key, success = object(), False
        under_way[key] = os.getpid(), time.monotonic()
        try:
            result = export(*args, **options)
            # The results of the three signals are three types with the same names.
            success = getattr(result, "name", None) == "SUCCESS"
            return result
        finally:
            del under_way[key]
            ended.append((time.monotonic(), success))

    try:
        cast("Any", exporter).export = watched
    except AttributeError:
        raise TypeError(
            f"otlp.exports: the export of {type(exporter).__name__} cannot be stood before; "
            "subclass it without __slots__"
        ) from None


def _points(collected: Any) -> Iterator[tuple[str, Mapping[str, object], float]]:
    """Yield what the SDK says of its processors: a metric's name, attributes and value."""
    for resource in getattr(collected, "resource_metrics", ()):
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name.startswith("otel.sdk.processor."):
                    for point in metric.data.data_points:
                        yield metric.name, point.attributes or {}, point.value
