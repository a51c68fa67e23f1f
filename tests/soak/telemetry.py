"""Telemetry neither grows with what errors say, nor hurts when its providers are at fault."""
# ruff: noqa: N802 - a gate is named after its goal.

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from httpx2 import ASGITransport, AsyncClient
from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    NoOpMeter,
    ObservableGauge,
    ObservableUpDownCounter,
    Observation,
)
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from otel_health import Checker, Degraded, Status, names
from tests.doubles import eventually, failing, hanging, passing
from tests.soak.figure import Figure, scaled, series_of, silent_checker, virtual_checker
from tests.virtual import VirtualLoop

COMPONENTS: Final = 50


def gate_R18(scale: float) -> Figure:
    """Cardinality: series are a function of the components, whatever errors and requests say."""
    texts = scaled(100_000, scale, 2000)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        before, after, requests = runner.run(_texts(texts, scaled(10_000, scale, 200)))
    with asyncio.Runner() as runner:
        warned = {components: runner.run(_warned(components)) for components in (666, 667)}
    return Figure(
        "R18",
        "series +0, whatever errors and requests say; a warning before 2,000 sets are exceeded, and not sooner",
        f"{texts} texts, {requests} requests: {before} series, then {after}; warned at 667: {warned[667]}, "
        f"at 666: {warned[666]}",
        before == after and warned == {666: False, 667: True},
    )


async def _texts(texts: int, requests: int) -> tuple[int, int, int]:
    reader = InMemoryMetricReader()
    checker = virtual_checker(ttl=0.5, meter_provider=SdkMeterProvider([reader]))
    said = 0

    async def failing_anew() -> None:
        nonlocal said
        said += 1
        name = f"Error{said}" if said < COMPONENTS * 40 or said % 10 == 0 else "Error"
        raise type(name, (Exception,), {})(f"{random.random()} of {said} at host-{said}.example")

    for number in range(COMPONENTS):
        checker.add(f"check-{number}", failing_anew)
    before = 0
    while said < texts + COMPONENTS * 40:
        await asyncio.sleep(1.0)
        await checker.run()
        if said == COMPONENTS * 40:
            before = len(series_of(reader))
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://soak") as client:
        for number in range(requests):
            method = random.choice(["GET", "HEAD", "POST", "BREW", f"M{number}"])
            await client.request(method, f"/{random.choice(['readyz/', 'livez/', ''])}path-{number}?exclude={number}")
    return before, len(series_of(reader)), requests


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


async def _warned(components: int) -> bool:
    logger, heard = logging.Logger("heard"), Heard()
    logger.addHandler(heard)
    checker = Checker(logger=logger, meter_provider=SdkMeterProvider([InMemoryMetricReader()]))
    for number in range(components):
        checker.add(f"check-{number}", passing())
    await checker.run()
    return any("attribute sets" in record.getMessage() for record in heard.records)


class FaultyExporter(MetricExporter, SpanExporter):
    """Exports by doing something else."""

    def __init__(self, fault: Callable[[], None]) -> None:
        super().__init__()
        self._fault = fault
        self.exports = 0

    def export(self, *_: Any, **__: Any) -> Any:
        """Count, and do what is wrong."""
        self.exports += 1
        self._fault()

    def force_flush(self, timeout_millis: float = 30_000) -> bool:  # noqa: ARG002 - the base's shape.
        """Nothing to flush."""
        return True

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing to shut down."""


class FaultyHandler(logging.Handler):
    """Handles by doing something else."""

    def __init__(self, fault: Callable[[], None]) -> None:
        super().__init__()
        self._fault = fault
        self.emits = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the base's shape.
        """Count, and do what is wrong."""
        self.emits += 1
        self._fault()


READER: Final = "OtelPeriodicExportingMetricReader"
INTERVAL_MILLIS: Final = 20.0


def gate_R19(scale: float) -> Figure:
    """OpenTelemetry at fault: verdicts and answers stay, readers live, nothing is run by a collection."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    wrong: list[str] = []
    trials = scaled(10, scale)
    for _ in range(trials):
        for name, scenario in SCENARIOS.items():
            if not asyncio.run(scenario()):
                wrong.append(name)
    callbacks, ran = asyncio.run(_callbacks(scaled(100, scale, 15)))
    slowest = max(callbacks, key=lambda name: callbacks[name])
    return Figure(
        "R19",
        "verdicts and HTTP unaffected, reader alive; callback <= 1 ms for 1,000 components each, 0 runs by collecting",
        f"{trials * len(SCENARIOS) - len(wrong)} of {trials * len(SCENARIOS)} {sorted(set(wrong)) or ''}; "
        f"slowest callback {slowest} {callbacks[slowest] * 1000:.2f} ms; {ran} runs",
        not wrong and callbacks[slowest] <= 0.001 and ran == 0,
    )


async def _unaffected(checker: Checker) -> bool:
    """Whether verdicts and answers are what they are without any telemetry, and as quick."""
    checker.add("passes", passing(), probes={"passing"})
    checker.add("fails", failing())
    checker.add("hangs", hanging(), timeout=0.1)
    checker.add("thread", lambda: True, probes={"passing"})
    begun = time.monotonic()
    async with asyncio.timeout(10):
        report = await checker.run("healthz")
    right = time.monotonic() - begun < 0.6
    expected = {"passes": Status.PASS, "fails": Status.FAIL, "hangs": Status.FAIL, "thread": Status.PASS}
    right &= report.statuses == expected
    async with AsyncClient(transport=ASGITransport(app=checker.asgi()), base_url="http://soak") as client:
        for path, status in (("/livez", 200), ("/readyz", 503), ("/passing", 200), ("/healthz/fails", 503)):
            begun = time.monotonic()
            right &= (await client.get(path)).status_code == status
            right &= time.monotonic() - begun < 0.8
    return right


async def _no_provider() -> bool:
    return await _unaffected(silent_checker(trace="always"))


async def _shut_down() -> bool:
    meters, tracers = SdkMeterProvider([InMemoryMetricReader()]), TracerProvider()
    meters.shutdown()
    tracers.shutdown()
    return await _unaffected(silent_checker(trace="always", meter_provider=meters, tracer_provider=tracers))


def _exporting(fault: Callable[[], None], released: threading.Event) -> Callable[[], Awaitable[bool]]:
    async def scenario() -> bool:
        exporter = FaultyExporter(fault)
        reader = PeriodicExportingMetricReader(exporter, INTERVAL_MILLIS)
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        meters = SdkMeterProvider([reader], shutdown_on_exit=False)
        right = await _unaffected(silent_checker(trace="always", meter_provider=meters, tracer_provider=tracers))
        await eventually(lambda: exporter.exports > 0)
        released.set()
        await asyncio.to_thread(meters.shutdown)
        released.clear()
        return right

    return scenario


def _raises() -> None:
    raise ConnectionError("the collector is gone")


def _logging(fault: Callable[[], None], released: threading.Event) -> Callable[[], Awaitable[bool]]:
    async def scenario() -> bool:
        logger = logging.Logger("faulty", logging.DEBUG)
        handler = FaultyHandler(fault)
        logger.addHandler(handler)
        right = await _unaffected(Checker(logger=logger, trace="never"))
        released.set()
        # Each of the four checks has changed its state: the thread that tells of it has survived them all.
        await eventually(lambda: handler.emits >= 4)
        released.clear()
        return right

    return scenario


class FaultyProcessor(LogRecordProcessor):
    """Takes an event by doing something else."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self._fault = fault
        self.emits = 0

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:  # noqa: ARG002 - the base's shape.
        """Count, and do what is wrong."""
        self.emits += 1
        self._fault()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the base's shape.
        """Nothing to flush."""
        return True

    def shutdown(self) -> None:
        """Nothing to shut down."""


def _emitting(fault: Callable[[], None], released: threading.Event) -> Callable[[], Awaitable[bool]]:
    async def scenario() -> bool:
        processor, events = FaultyProcessor(fault), LoggerProvider(shutdown_on_exit=False)
        events.add_log_record_processor(processor)
        right = await _unaffected(silent_checker(trace="never", logger_provider=events))
        released.set()
        await eventually(lambda: processor.emits >= 4)
        released.clear()
        return right

    return scenario


def _exits() -> None:
    raise SystemExit("a fault")


async def _callbacks_raise() -> bool:
    """Have our own callbacks meet a BaseException in the reader's thread: it must live and collect again."""
    faults = 0

    def clock() -> float:
        nonlocal faults
        if threading.current_thread().name == READER and faults < 20:
            faults += 1
            raise SystemExit("from the clock")
        return time.monotonic()

    exporter = FaultyExporter(lambda: None)
    meters = SdkMeterProvider([PeriodicExportingMetricReader(exporter, INTERVAL_MILLIS)], shutdown_on_exit=False)
    checker = silent_checker(clock=clock, meter_provider=meters)
    right = await _unaffected(checker)
    await eventually(lambda: faults == 20)
    exported = exporter.exports
    await eventually(lambda: exporter.exports > exported + 2)
    right &= any(thread.name == READER for thread in threading.enumerate())
    await asyncio.to_thread(meters.shutdown)
    return right


_released = threading.Event()


def _hangs() -> None:
    _released.wait(60)


SCENARIOS: Final[dict[str, Callable[[], Any]]] = {
    "no provider": _no_provider,
    "shut down": _shut_down,
    "exporter raises": _exporting(_raises, _released),
    "exporter hangs": _exporting(_hangs, _released),
    "log handler exits": _logging(_exits, _released),
    "log handler hangs": _logging(_hangs, _released),
    "log processor exits": _emitting(_exits, _released),
    "log processor hangs": _emitting(_hangs, _released),
    "callbacks raise": _callbacks_raise,
}

Callback = Callable[[CallbackOptions], Sequence[Observation]]


class Recorder(NoOpMeter):
    """A meter that keeps the callbacks of the observable instruments."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.callbacks: dict[str, Callback] = {}

    def create_observable_gauge(self, name: str, callbacks: Any = None, *_: Any, **__: Any) -> ObservableGauge:
        """Keep the callback."""
        self.callbacks[name] = callbacks[0]
        return super().create_observable_gauge(name)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Any = None, *_: Any, **__: Any
    ) -> ObservableUpDownCounter:
        """Keep the callback."""
        self.callbacks[name] = callbacks[0]
        return super().create_observable_up_down_counter(name)


class Recorders(MeterProvider):
    """Has one meter, which records."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    def get_meter(self, *_: Any, **__: Any) -> Meter:
        """The recorder."""
        return self.recorder


RARE: Final = {names.CHECK_SLOW, names.TASK_STATE, names.REGISTRATION_UP}
"""Instruments that have nothing to say of these components."""


async def _callbacks(times: int) -> tuple[dict[str, float], int]:
    """Return the seconds of each callback over 1,000 components, and the runs that reading caused.

    The best of its turns, in the thread's own time: what else the machine does is not the callback's.
    """
    provider, runs = Recorders(), 0
    checker = silent_checker(ttl=1e-9, meter_provider=provider)

    async def measuring() -> dict[str, float]:
        nonlocal runs
        runs += 1
        return {"backlog": 1.0}

    async def degraded() -> None:
        raise Degraded("as it may be")

    for number in range(1000):
        if number % 50:
            checker.add(f"check-{number}", measuring)
        else:
            checker.add(f"check-{number}", degraded, critical=False, recover=lambda: None)
    await checker.run()
    before = runs
    taken: dict[str, float] = {}
    for name, callback in provider.recorder.callbacks.items():
        seconds = []
        for _ in range(times):
            begun = time.thread_time()
            observations = callback(CallbackOptions())
            seconds.append(time.thread_time() - begun)
            assert observations or name in RARE, f"{name} observed nothing"
        taken[name] = min(seconds)
    await asyncio.sleep(0)
    return taken, runs - before
