"""The instruments: what Prometheus and OpenTelemetry see of the state."""

import asyncio
import gc
import gzip
import logging
import re
import threading
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import generate_latest
from starlette.applications import Starlette

from otel_health import Checker, Degraded, Failed, Status
from otel_health.metrics import Prepared
from otel_health.prometheus import PrometheusExporter
from tests.doubles import Blocking, Switch, eventually, failing, passing, swallowing
from tests.virtual import virtual_checker


def samples(exporter: PrometheusExporter) -> dict[str, float]:
    """Every sample on the exporter's registry, by its line without the value."""
    lines = generate_latest(exporter.registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def scrape(exporter: PrometheusExporter, method: str = "GET", **headers: str) -> Response:
    """One scrape over HTTP."""
    app = Starlette(routes=[exporter.route()])
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        return await client.request(method, "/metrics", headers={"accept-encoding": "identity", **headers})


async def degraded() -> None:
    """A check that warns, with an observation."""
    raise Degraded("behind", backlog=12)


async def test_the_line_that_is_grepped_for() -> None:
    """Exactly this one."""
    exporter = PrometheusExporter(service_name="orders")
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    await checker.run()

    text = (await scrape(exporter)).text

    assert 'otel_health_check_up{component="postgres"} 1.0' in text.splitlines()
    assert 'service_name="orders"' in text


async def test_every_instrument_of_the_contract() -> None:
    """Names, labels and values of one passing, one degraded and one failing component."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    checker.add("queue", degraded)
    checker.add("redis", failing(), critical=False)
    await checker.run()

    found = samples(exporter)

    for component, status in (("postgres", "pass"), ("queue", "warn"), ("redis", "fail")):
        assert found[f'otel_health_check_up{{component="{component}"}}'] == (status != "fail")
        for each in ("pass", "warn", "fail"):
            assert found[f'otel_health_check_status{{component="{component}",status="{each}"}}'] == (each == status)
        assert found[f'otel_health_check_duration_seconds_count{{component="{component}"}}'] == 1
        assert found[f'otel_health_check_last_run_seconds{{component="{component}"}}'] > 1.7e9
        assert found[f'otel_health_check_abandoned{{component="{component}"}}'] == 0
        assert (f'otel_health_check_last_success_seconds{{component="{component}"}}' in found) == (status != "fail")
    assert found['otel_health_check_observation{component="queue",observation="backlog"}'] == 12
    assert found['otel_health_check_failures_total{component="redis",error_type="ConnectionError"}'] == 1
    assert found['otel_health_check_error_since_seconds{component="queue",error_type="degraded"}'] > 1.7e9
    assert found['otel_health_check_error_since_seconds{component="redis",error_type="ConnectionError"}'] > 1.7e9
    assert found['otel_health_check_optional{component="redis"}'] == 1
    assert found['otel_health_probe_up{probe="readyz"}'] == 1
    assert found['otel_health_probe_status{probe="readyz",status="warn"}'] == 1
    assert found['otel_health_probe_status{probe="livez",status="pass"}'] == 1


async def test_pending_has_no_up() -> None:
    """Nothing was measured, so nothing is said of the component; its probe fails."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    await checker.run("livez")

    found = samples(exporter)

    assert not [name for name in found if name.startswith(("otel_health_check_up", "otel_health_check_status"))]
    assert found['otel_health_probe_up{probe="readyz"}'] == 0


@pytest.mark.virtual_time
async def test_stale_is_not_up() -> None:
    """We knew, and know no longer; what was measured then is not shown as measured now."""
    exporter = PrometheusExporter()
    checker = virtual_checker(meter_provider=exporter.meter_provider)

    @checker.check("queue")
    async def queue() -> dict[str, float]:
        return {"backlog": 3}

    await checker.run()
    await asyncio.sleep(24)

    found = samples(exporter)

    assert found['otel_health_check_up{component="queue"}'] == 0
    assert not [name for name in found if name.startswith("otel_health_check_observation")]


async def test_collecting_runs_nothing() -> None:
    """A scrape reads memory."""
    switch = Switch()
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider, ttl=1e-9)
    checker.add("redis", switch)
    await checker.run()

    for _ in range(10):
        await scrape(exporter)

    assert switch.calls == 1


async def test_removed_components_leave_no_ghosts() -> None:
    """Their observable series end with them."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    checker.add("redis", passing())
    await checker.run()
    checker.remove("redis")

    ghosts = [name for name in samples(exporter) if "redis" in name]

    assert all("duration" in name for name in ghosts)


async def test_a_closed_or_forgotten_checker_publishes_nothing() -> None:
    """The instruments hold Checkers weakly, and open ones only."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    async with checker:
        await eventually(lambda: checker.report().status.up)
        assert 'otel_health_check_up{component="postgres"}' in samples(exporter)
    assert 'otel_health_check_up{component="postgres"}' not in samples(exporter)

    async def on_demand() -> None:
        another = Checker(meter_provider=exporter.meter_provider)
        another.add("postgres", passing())
        await another.run()
        assert 'otel_health_check_up{component="postgres"}' in samples(exporter)

    await on_demand()
    await asyncio.sleep(0)
    gc.collect()
    assert 'otel_health_check_up{component="postgres"}' not in samples(exporter)


async def test_two_checkers_share_one_provider() -> None:
    """Both are published, and a probe of both is as bad as the worse."""
    exporter = PrometheusExporter()
    orders = Checker(meter_provider=exporter.meter_provider)
    orders.add("postgres", passing())
    payments = Checker(meter_provider=exporter.meter_provider)
    payments.add("redis", failing())
    await orders.run()
    await payments.run()

    found = samples(exporter)

    assert found['otel_health_check_up{component="postgres"}'] == 1
    assert found['otel_health_check_up{component="redis"}'] == 0
    assert found['otel_health_probe_up{probe="readyz"}'] == 0


async def test_a_name_that_two_open_checkers_share_is_refused() -> None:
    """Their metrics could not be told apart."""
    exporter = PrometheusExporter()
    first = Checker(meter_provider=exporter.meter_provider)
    second = Checker(meter_provider=exporter.meter_provider)
    first.add("redis", passing())
    second.add("redis", passing())
    async with first:
        with pytest.raises(ValueError, match="two open Checkers of one meter provider have a component 'redis'"):
            await second.__aenter__()
        second.remove("redis")
        async with second:
            with pytest.raises(ValueError, match="component 'redis'"):
                second.add("redis", passing())
    second.add("redis", passing())
    async with second:
        await eventually(lambda: second.report().status.up)


async def test_a_name_that_an_open_checker_has_itself_is_told_of_as_that() -> None:
    """It shares it with nobody."""
    checker = Checker(meter_provider=PrometheusExporter().meter_provider)
    checker.add("redis", passing())
    async with checker:
        with pytest.raises(ValueError, match="a check named 'redis' is already registered"):
            checker.add("redis", passing())


async def test_an_abandoned_run_is_counted() -> None:
    """Until it ends."""
    blocking = Blocking()
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider, timeout=0.05, ttl=1e-9)
    checker.add("stuck", blocking)
    await checker.run()
    await checker.run()

    found = samples(exporter)

    assert found['otel_health_check_abandoned{component="stuck"}'] == 1
    assert found['otel_health_check_failures_total{component="stuck",error_type="timeout"}'] == 1
    assert found['otel_health_check_failures_total{component="stuck",error_type="hung"}'] == 1
    assert found['otel_health_check_duration_seconds_count{component="stuck"}'] == 1
    blocking.let_go.set()
    await eventually(lambda: samples(exporter)['otel_health_check_abandoned{component="stuck"}'] == 0)


async def test_the_series_do_not_depend_on_what_errors_say() -> None:
    """At most 20 class names for each component, whatever is raised, and no message at all."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider, ttl=1e-9)
    switch = Switch()
    checker.add("redis", switch)
    for number in range(200):
        switch.error = type(f"Error{number}", (Exception,), {})(f"text {number}")
        await checker.run()

    found = samples(exporter)

    failures = [name for name in found if name.startswith("otel_health_check_failures_total")]
    assert len(failures) == 21
    assert found['otel_health_check_failures_total{component="redis",error_type="other"}'] == 180
    assert not [name for name in found if "text" in name]


async def test_too_many_components_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Before the SDK folds series into its overflow; once."""
    reader = InMemoryMetricReader()
    checker = Checker(meter_provider=MeterProvider([reader]))
    for number in range(667):
        checker.add(f"c{number}", passing())
    await checker.run("livez")
    await checker.run("readyz")

    warnings = [record for record in caplog.records if "cardinality_limits" in record.getMessage()]

    assert len(warnings) == 1
    assert "667 components need 2001 attribute sets" in warnings[0].getMessage()


async def test_the_exporters_own_reader_holds_more() -> None:
    """Where the reader lets us, its limit is raised: 1,000 components are all there, and nothing is warned of."""
    exporter = PrometheusExporter()
    if not hasattr(exporter.meter_provider, "cardinality_limit"):
        pytest.skip("this version of the reader has no cardinality_limits")
    checker = Checker(meter_provider=exporter.meter_provider)
    for number in range(1000):
        checker.add(f"c{number}", passing())
    await checker.run()

    found = samples(exporter)

    assert sum(name.startswith("otel_health_check_status") for name in found) == 3000
    assert not [name for name in found if "overflow" in name]


def test_a_provider_that_takes_no_reader_is_refused() -> None:
    """The API's stands for one that is configured later, or never."""
    with pytest.raises(TypeError, match="a NoOpMeterProvider, to which no reader can be added; pass the SDK's"):
        PrometheusExporter(meter_provider=NoOpMeterProvider())  # type: ignore[arg-type]


async def test_a_provider_that_was_there_before_keeps_its_limits() -> None:
    """The application's own instruments do not take more memory because somebody looks at them."""
    if not hasattr(PrometheusExporter().meter_provider, "cardinality_limit"):
        pytest.skip("this version of the reader has no cardinality_limits")
    provider = MeterProvider()
    exporter = PrometheusExporter(meter_provider=provider)
    counter = provider.get_meter("orders").create_counter("orders")
    for number in range(2100):
        counter.add(1, {"path": f"/orders/{number}"})

    found = [name for name in samples(exporter) if name.startswith("orders_total")]
    exporter.shutdown()

    assert len(found) <= 2001


async def test_a_provider_that_raises_changes_no_verdict(caplog: pytest.LogCaptureFixture) -> None:
    """Told once; the state is as it would be."""
    provider = MeterProvider()
    checker = Checker(meter_provider=provider, ttl=1e-9)
    checker.add("redis", passing())
    await checker.run()
    instruments: Any = checker.engine._instruments  # noqa: SLF001 - the fault is injected.

    class Broken:
        def record(self, *_: object) -> None:
            raise RuntimeError("exporter")

    instruments._duration = Broken()  # noqa: SLF001

    for _ in range(3):
        assert (await checker.run()).status is Status.PASS
    assert caplog.text.count("the meter provider fails to record") == 1


async def test_a_shut_down_provider_changes_no_verdict() -> None:
    """Nor does one that was never there."""
    provider = MeterProvider([InMemoryMetricReader()])
    checker = Checker(meter_provider=provider, ttl=1e-9)
    checker.add("redis", passing())
    await checker.run()
    provider.shutdown()

    assert (await checker.run()).status is Status.PASS


async def test_system_exit_in_a_callback_does_not_reach_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would kill a periodic reader for good."""
    reader = InMemoryMetricReader()
    checker = Checker(meter_provider=MeterProvider([reader]))
    checker.add("redis", passing())
    await checker.run()

    def leave() -> Any:
        raise SystemExit(3)

    monkeypatch.setattr(checker.engine, "states", leave)

    reader.collect()


async def test_histogram_bounds_fit_health_checks() -> None:
    """Not the SDK's default, whose first bound is 5 s."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("redis", passing())
    await checker.run()

    bounds = re.findall(
        r'duration_seconds_bucket\{component="redis",le="([^"]+)"', generate_latest(exporter.registry).decode()
    )

    assert bounds == ["0.005", "0.025", "0.1", "0.25", "0.5", "1.0", "2.5", "10.0", "+Inf"]


# The scrape.


async def test_metrics_are_200_whatever_the_health() -> None:
    """A failing component must not hide its own metric."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("redis", failing(Failed("down")))
    await checker.run()

    response = await scrape(exporter)

    assert response.status_code == 200
    assert 'otel_health_check_up{component="redis"} 0.0' in response.text
    assert response.headers["cache-control"] == "no-store"


async def test_the_format_is_negotiated() -> None:
    """OpenMetrics for who asks, the classic text for the others; compressed for who takes it."""
    exporter = PrometheusExporter()

    classic = await scrape(exporter)
    openmetrics = await scrape(exporter, accept="application/openmetrics-text; version=1.0.0")
    zipped = await scrape(exporter, **{"accept-encoding": "gzip"})

    assert classic.headers["content-type"].startswith("text/plain")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.compress(b"") != zipped.content
    assert (await scrape(exporter, "HEAD")).status_code == 200
    assert (await scrape(exporter, "POST")).headers["allow"] == "GET, HEAD"


async def test_concurrent_scrapers_all_get_everything() -> None:
    """The reader is not safe for two at once; nobody gets an empty or doubled answer."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    for number in range(20):
        checker.add(f"c{number}", passing())
    await checker.run()

    answers = await asyncio.gather(*(scrape(exporter) for _ in range(50)))

    counts = {answer.text.count("\notel_health_check_up{") for answer in answers}
    assert counts == {20}


async def test_a_callback_of_the_application_that_hangs_holds_up_scrapes_alone() -> None:
    """Scrapers are told so within their own time, pile up no threads, and are served again afterwards."""
    exporter = PrometheusExporter()
    let_go = threading.Event()

    def hang(_: CallbackOptions) -> list[Observation]:
        let_go.wait()
        return [Observation(1)]

    exporter.meter_provider.get_meter("application").create_observable_gauge("application.gauge", [hang])
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("redis", passing())
    before = threading.active_count()

    patience = {"x-prometheus-scrape-timeout-seconds": "0.1"}
    answers = await asyncio.gather(*(scrape(exporter, **patience) for _ in range(5)))

    assert {answer.status_code for answer in answers} == {503}
    assert threading.active_count() <= before + 2
    assert (await checker.run()).status is Status.PASS
    let_go.set()
    assert (await scrape(exporter)).status_code == 200


async def test_a_collector_of_the_application_that_raises_is_told() -> None:
    """As the scrape's own failure, without its text."""
    exporter = PrometheusExporter()

    class Broken:
        def collect(self) -> Any:
            raise ValueError("secret")

    exporter.registry._collector_to_names[Broken()] = []  # noqa: SLF001 - registering collects.

    response = await scrape(exporter)

    assert (response.status_code, response.text) == (500, "collecting the metrics raised ValueError\n")


async def test_shutdown_ends_the_series() -> None:
    """And the thread that collects."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("redis", swallowing(), timeout=0.01)
    async with checker:
        await eventually(lambda: bool(samples(exporter)))
    exporter.shutdown()

    assert (await scrape(exporter)).text.count("otel_health") == 0


async def test_one_provider_publishes_checkers_made_before_it_was_global(caplog: pytest.LogCaptureFixture) -> None:
    """An application that has OpenTelemetry configured passes nothing."""
    caplog.set_level(logging.WARNING)
    checker = Checker()
    checker.add("redis", passing())

    assert (await checker.run()).status is Status.PASS
    assert "Overriding" not in caplog.text


async def test_a_check_that_invents_names_costs_no_memory() -> None:
    """What is kept of observations for the next scrape is bounded; what is shown is what was measured last."""
    exporter = PrometheusExporter()
    checker = Checker(ttl=1e-9, meter_provider=exporter.meter_provider)
    turn = 0

    async def inventing() -> dict[str, float]:
        return {f"name-{turn}-{number}": 1.0 for number in range(10)}

    checker.add("inventor", inventing)
    for turn in range(5):
        await checker.run()
        shown = [line for line in samples(exporter) if line.startswith("otel_health_check_observation")]
        assert len(shown) == 10
        assert all(f"name-{turn}-" in line for line in shown)

    (component, _), *_ = checker.engine.states()
    assert isinstance(component.prepared, Prepared)
    assert len(component.prepared.labels) <= 16


def about(exporter: PrometheusExporter, metric: str) -> dict[str, float]:
    """The samples of one metric, by the labels."""
    return {line.removeprefix(metric): value for line, value in samples(exporter).items() if line.startswith(metric)}


async def test_an_error_is_shown_with_since_when_and_only_while_it_lasts() -> None:
    """The class of what was raised, or the error type; nothing once it passes: a passing component costs no series."""
    exporter = PrometheusExporter()
    checker = Checker(ttl=1e-9, success_threshold=2, meter_provider=exporter.meter_provider)
    switch = Switch()
    switch.error = ConnectionError("refused")
    checker.add("postgres", switch)
    metric = "otel_health_check_error_since_seconds"

    first = await checker.run()
    failed = '{component="postgres",error_type="ConnectionError"}'
    assert about(exporter, metric) == {failed: first.components["postgres"].since}
    switch.error = None
    await checker.run()
    assert list(about(exporter, metric)) == ['{component="postgres",error_type="failed"}']
    await checker.run()
    assert about(exporter, metric) == {}
    checker.add("redis", passing())
    assert list(about(exporter, metric)) == ['{component="redis",error_type="pending"}']


@pytest.mark.virtual_time
async def test_a_slow_component_is_shown_while_it_is_up_and_slow() -> None:
    """As in the log: more than four fifths of the timeout, and nothing of one that fails anyway."""
    exporter = PrometheusExporter()
    checker = virtual_checker(ttl=1e-9, timeout=1.0, meter_provider=exporter.meter_provider)
    seconds = 0.0

    async def postgres() -> None:
        await asyncio.sleep(seconds)

    checker.add("postgres", postgres)
    for seconds, shown in ((0.0, {}), (0.9, {'{component="postgres"}': 1.0}), (60.0, {}), (0.0, {})):
        await asyncio.sleep(1.0)
        await checker.run()
        assert about(exporter, "otel_health_check_slow") == shown, seconds


async def test_only_optional_checks_say_so() -> None:
    """Most are critical, and cost no series; what no probe asks that keeps traffic away is none, in effect."""
    exporter = PrometheusExporter()
    checker = Checker(meter_provider=exporter.meter_provider)
    checker.add("postgres", passing())
    checker.add("threads", passing(), local=True, probes={"livez"})
    checker.add("redis", passing(), critical=False)
    checker.add("reports", passing(), probes={"batchz"})
    checker.add("invoices", passing(), probes=())
    await checker.run()

    assert set(about(exporter, "otel_health_check_optional")) == {
        '{component="redis"}',
        '{component="reports"}',
        '{component="invoices"}',
    }


@pytest.mark.virtual_time
async def test_what_only_the_start_needs_is_optional_from_then_on() -> None:
    """As its probe has it: until it was up once, nothing starts without it."""
    exporter = PrometheusExporter()
    checker = virtual_checker(ttl=1e-9, meter_provider=exporter.meter_provider)
    migrated = False

    async def migrations() -> bool:
        return migrated

    checker.add("migrations", migrations, probes={"startupz"})
    for migrated, shown in (
        (False, {}),
        (True, {'{component="migrations"}': 1.0}),
        (False, {'{component="migrations"}': 1.0}),
    ):
        await asyncio.sleep(1.0)
        await checker.run("startupz")
        assert about(exporter, "otel_health_check_optional") == shown, migrated
