"""Every expression of every panel and every rule, on a real Prometheus that has seen it all happen."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from otel_health.observability.rules import Options, rules
from tests.observability.stack import Prometheus, comes_true, own_prometheus
from tests.observability.test_dashboards import BOARDS
from tests.servers import free_port, program
from tests.services import serving

TROUBLED: Final = '''
"""Components that pass, warn, fail, hang, flap, time out, vanish and come back, on a loop that is blocked."""
import asyncio, os, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from otel_health import Checker, Degraded
from otel_health.lifecycle import LivenessServer, LoopMonitor
from otel_health.prometheus import PrometheusExporter
from otel_health.recovery import Supervisor

begun = time.monotonic()
exporter = PrometheusExporter(service_name="orders")
checker = Checker(interval=0.2, timeout=0.3, meter_provider=exporter.meter_provider)

def after(seconds):
    return time.monotonic() - begun > seconds

@checker.check("passes")
async def passes():
    return {"connections": 3}

@checker.check("warns")
async def warns():
    raise Degraded("behind", backlog=12)

@checker.check("fails")
async def fails():
    raise ConnectionRefusedError

@checker.check("optional", critical=False)
async def optional():
    raise ConnectionRefusedError

@checker.check("hangs")
async def hangs():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if after(600):
                raise

@checker.check("flaps")
async def flaps():
    return int(time.monotonic() - begun) % 2 == 0

@checker.check("times-out")
async def times_out():
    await asyncio.sleep(60)

@checker.check("comes-back")
async def comes_back():
    return after(6)

@checker.check("slow", timeout=2.0)
async def slow():
    await asyncio.sleep(1.7)

@checker.check("mended", recover=lambda: False)
async def mended():
    raise ConnectionRefusedError

async def crashes():
    raise ConnectionRefusedError

supervisor = Supervisor(checker)
supervisor.start("crashes", crashes, restart_delay=0.1, max_restart_delay=0.5, max_restarts=20)

async def passing(): ...
checker.add("starts", passing, initial_delay=3600.0)
checker.add("vanishes", passing)

async def happen():
    await asyncio.sleep(8)
    checker.remove("vanishes")
    for _ in range(4):
        time.sleep(1.05)
        await asyncio.sleep(0.5)
    time.sleep(4)

@asynccontextmanager
async def lifespan(app):
    port = int(os.environ["LIVENESS"])
    watching = LoopMonitor(checker, stuck_after=2.0), LivenessServer(checker, port=port, metrics=exporter)
    async with checker, supervisor, watching[0], watching[1]:
        happening = asyncio.create_task(happen())
        yield
        happening.cancel()

app = Starlette(routes=[*checker.routes(), exporter.route("/metrics")], lifespan=lifespan)
'''

HEALTHY: Final = """
from starlette.applications import Starlette
from otel_health import Checker
from otel_health.prometheus import PrometheusExporter

exporter = PrometheusExporter(service_name="orders")
checker = Checker(interval=0.2, meter_provider=exporter.meter_provider)

@checker.check("passes")
async def passes(): ...

app = Starlette(routes=[*checker.routes(), exporter.route("/metrics")], lifespan=checker.lifespan)
"""

WATCHED: Final = 22.0
"""Seconds for which Prometheus watches, which is a little longer than all of it takes."""

CHOSEN: Final = {"$job": "orders", "$instance": ".+", "$__range": "20s", "$__rate_interval": "4s"}
RULES: Final = rules(Options(page_after="0s", window="10s", flaps=3, interval="1s", slow_interval="1s", slo=94.0))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float]]:
    """A Prometheus that has watched three instances, one of which was killed, and a job that went, and since when."""
    ports = {instance: free_port() for instance in "abc"}
    with (
        serving(tmp_path_factory.mktemp("a"), source=TROUBLED, LIVENESS=str(ports["a"])),
        serving(tmp_path_factory.mktemp("b"), source=TROUBLED, LIVENESS=str(ports["b"])),
        serving(tmp_path_factory.mktemp("c"), source=TROUBLED, LIVENESS=str(ports["c"])) as victim,
        own_prometheus({"orders": ports, "gone": {"a": ports["a"]}}, RULES) as prometheus,
    ):
        begun = time.time()
        comes_true(lambda: len(prometheus.now('otel_health_probe_up{job="orders",probe="readyz"}')) == 3)
        victim.signal(signal.SIGKILL)
        comes_true(lambda: prometheus.now('job:otel_health_instances:count{job="gone"}'))
        prometheus.forget("gone")
        time.sleep(max(0.0, begun + WATCHED - time.time()))
        yield prometheus, begun


def expressions_of_panels() -> list[Any]:
    """Every expression of every panel, and of every mark in time."""
    found = []
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            found += [(f"{name}: {panel['title']} {each['refId']}", each["expr"]) for each in panel["targets"]]
        found += [(f"{name}: {each['name']}", each["expr"]) for each in board.get("annotations", {}).get("list", ())]
    return [pytest.param(expression, id=title) for title, expression in found]


def expressions_of_rules() -> list[Any]:
    """Every expression of every rule."""
    groups: Any = RULES["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    named = [
        (rule.get("record") or f"{rule['alert']} {rule['labels'].get('long', '')}".strip(), rule["expr"])
        for rule in found
    ]
    return [pytest.param(expression, id=name) for name, expression in named]


def chosen(expression: str, component: str = ".+") -> str:
    """The expression as Grafana asks it, with everything chosen."""
    for name, value in {**CHOSEN, "$component": component}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", expressions_of_panels())
def test_every_panel_shows_data(expression: str, watched: tuple[Prometheus, float]) -> None:
    """At some time of that time; and no number of it is not one."""
    prometheus, begun = watched

    found = prometheus.since(begun, chosen(expression))

    assert [value for series in found for _, value in series["values"] if value != "NaN"]


def test_a_panel_that_a_healthy_service_leaves_empty_says_so_in_words(tmp_path: Path) -> None:
    """The least that a service can have; "no data" and "not recorded" are said of what is missing only."""
    panels = [panel for board in BOARDS.values() for panel in board["panels"]]

    def words_of_the_empty() -> set[str]:
        empty = [p for p in panels if not any(prometheus.now(chosen(each["expr"])) for each in p["targets"])]
        return {panel["fieldConfig"]["defaults"]["noValue"] for panel in empty}

    with (
        serving(tmp_path, source=HEALTHY) as service,
        own_prometheus({"orders": {"a": service.port}}, RULES) as prometheus,
    ):
        comes_true(lambda: not words_of_the_empty() & {"no data", "not recorded"})
        assert words_of_the_empty() == {
            "its check measures nothing",
            "no LoopMonitor is open",
            "no attempts",
            "no failures",
            "no flaps",
            "no recovery action",
            "no supervised task",
        }


@pytest.mark.parametrize("expression", expressions_of_rules())
def test_every_rule_finds_something(expression: str, watched: tuple[Prometheus, float]) -> None:
    """What nothing could match would never fire. Nothing here is old enough for the look back of a burn."""
    prometheus, begun = watched

    assert prometheus.since(begun, re.sub(r" offset \w+", "", expression))


def test_every_metric_and_label_exists(watched: tuple[Prometheus, float]) -> None:
    """No expression, no legend and no mark speaks of what is not there."""
    prometheus, _ = watched
    texts = " ".join([str(BOARDS), str(RULES)])
    labels = set(re.findall(r"\{\{(?:\$labels\.)?(\w+)\}\}|\$labels\.(\w+)|by \(([\w, ]+)\)", texts))
    named = {label.strip() for found in labels for group in found for label in group.split(",") if label.strip()}

    metrics = set(prometheus.ask("label/__name__/values"))
    assert set(re.findall(r"\b(?:otel_health_[a-z_]+|job(?:_component)?:\w+:\w+)\b(?=[{\[])", texts)) <= metrics
    assert named <= set(prometheus.ask("labels")) | {"alertname"}


def test_the_annotations_are_filled_in(watched: tuple[Prometheus, float]) -> None:
    """Prometheus finds every label that a description speaks of."""
    prometheus, _ = watched

    firing = prometheus.ask("alerts")["alerts"]

    assert firing
    for alert in firing:
        assert not re.search(r"<no value>|<error|\{\{|  | of \.| on  ", alert["annotations"]["description"]), alert


def test_promtool_finds_the_metrics_well_named(watched: tuple[Prometheus, float]) -> None:
    """`promtool check metrics`, on what a service with everything shows."""
    prometheus, _ = watched
    (url, *_) = [each["scrapeUrl"] for each in prometheus.ask("targets")["activeTargets"] if each["health"] == "up"]
    with urlopen(url, timeout=30) as answer:
        text = answer.read()

    checked = subprocess.run([program("promtool", "Prometheus"), "check", "metrics"], input=text, capture_output=True)

    complaints = [line for line in checked.stderr.decode().splitlines() if line.startswith("otel_health_")]
    assert complaints == []
