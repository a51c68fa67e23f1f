"""Every alert: it fires when it should, and not when it should not. The arithmetic is promtool's."""

import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from otel_health.observability.alerts import ALERTS, BURN, PREFIX
from otel_health.observability.documents import as_yaml
from otel_health.observability.rules import Options, rules
from tests.servers import program

Series = dict[str, str]
"""Samples, a minute apart unless said otherwise, in promtool's notation, by their series."""


def up(value: str, instance: str = "a") -> Series:
    """What Prometheus says of the scrapes of an instance, which reported that it was ready before they failed."""
    return {
        f'up{{job="orders",instance="{instance}"}}': value,
        f'otel_health_probe_up{{job="orders",instance="{instance}",probe="readyz"}}': "1x5 stale",
    }


def ready(value: str, instance: str = "a") -> Series:
    """What readyz says of an instance."""
    return {f'otel_health_probe_up{{job="orders",instance="{instance}",probe="readyz"}}': value}


def of(metric: str, value: str, component: str = "postgres", instance: str = "a", **labels: str) -> Series:
    """A series of one component."""
    everything = {"job": "orders", "instance": instance, "component": component, **labels}
    shown = ",".join(f'{name}="{label}"' for name, label in everything.items())
    return {f"otel_health_check_{metric}{{{shown}}}": value}


def loop(measurements: str) -> Series:
    """How late the event loop was: of all these measurements, 240 a minute were not later than a second."""
    labels = 'job="orders",instance="a"'
    return {
        f'otel_health_event_loop_lag_seconds_bucket{{{labels},le="1.0"}}': "0+240x40",
        f'otel_health_event_loop_lag_seconds_bucket{{{labels},le="+Inf"}}': measurements,
        f"otel_health_event_loop_lag_seconds_count{{{labels}}}": measurements,
    }


def restarts(value: str) -> Series:
    """How often a supervised task was started anew."""
    return {'otel_health_task_restarts_total{job="orders",instance="a",component="postgres"}': value}


def gave_up(what: str, value: str) -> Series:
    """Whether a task, or the recovery of a component, was given up."""
    return {f'otel_health_{what}_state{{job="orders",instance="a",component="postgres",state="gave_up"}}': value}


HERE: Final = {"job": "orders", "instance": "a", "component": "postgres"}
INSTANCE: Final = {"job": "orders", "instance": "a"}
STALE: Final = of("error_since_seconds", "1700000000x40", error_type="stale")

GONE: Final = {**up("1x5 stale"), **up("1x5 stale", "b")}
"""Both instances, until discovery no longer has them."""


class Case(NamedTuple):
    """What is scraped, and whether the alert fires then."""

    alert: str
    when: str
    series: Series
    at: str
    fires: dict[str, str] | None
    step: int = 1
    """Minutes between two samples."""
    long: str = ""
    """Which of the windows of a burn it is about."""


CASES: Final = [
    Case("InstanceDown", "for a minute", up("1x5 0x30"), "8m", INSTANCE),
    Case("InstanceDown", "for a moment", up("1x5 0 1x30"), "8m", None),
    Case("InstanceDown", "and it never reported health", {'up{job="node",instance="a"}': "0x30"}, "8m", None),
    Case("InstanceDown", "for the second day", up("1x5 0x750"), "48h", INSTANCE, step=4),
    Case("ServiceGone", "with both its targets", GONE, "25m", {"job": "orders"}),
    Case("ServiceGone", "for ten minutes only", {**GONE, **ready("1x5 stale _x10 1x40")}, "25m", None),
    Case("ServiceGone", "but for one instance", {**GONE, **ready("1x40", "b")}, "25m", None),
    Case("ServiceGone", "though its targets are there, and down", up("1x5 0x40"), "25m", None),
    Case("InstanceNotReady", "for five minutes", ready("1 0x30"), "7m", {**INSTANCE, "probe": "readyz"}),
    Case("InstanceNotReady", "while it starts", ready("0x4 1x30"), "4m", None),
    Case("ComponentDown", "for a minute", of("up", "1 0x30"), "3m", HERE),
    Case("ComponentDown", "once", of("up", "1 0 1x30"), "3m", None),
    Case("ComponentDown", "and it is optional", {**of("up", "0x30"), **of("optional", "1x30")}, "20m", None),
    Case("ComponentDown", "and nobody checks it", {**of("up", "0x30"), **STALE}, "20m", None),
    Case("ComponentDown", "and it is the loop", of("up", "0x30", component="event-loop"), "20m", None),
    Case(
        "ComponentDownEverywhere",
        "on both instances",
        {**of("up", "0x30"), **of("up", "0x30", instance="b")},
        "3m",
        {"job": "orders", "component": "postgres"},
    ),
    Case(
        "ComponentDownEverywhere",
        "on one of two instances",
        {**of("up", "0x30"), **of("up", "1x30", instance="b")},
        "20m",
        None,
    ),
    Case(
        "ComponentDownEverywhere",
        "and it is optional",
        {
            **of("up", "0x30"),
            **of("up", "0x30", instance="b"),
            **of("optional", "1x30"),
            **of("optional", "1x30", instance="b"),
        },
        "20m",
        None,
    ),
    Case("ComponentDownEverywhere", "and there is one instance only", of("up", "0x30"), "20m", None),
    Case(
        "ComponentDownEverywhere",
        "in all workers of one instance",
        {**of("up", "0x30", service_instance_id="1"), **of("up", "0x30", service_instance_id="2")},
        "20m",
        None,
    ),
    Case("OptionalComponentDown", "for 15 min", {**of("up", "0x30"), **of("optional", "1x30")}, "16m", HERE),
    Case("OptionalComponentDown", "for 5 min", {**of("up", "0x5 1x30"), **of("optional", "1x30")}, "16m", None),
    Case("OptionalComponentDown", "and it is critical", of("up", "0x30"), "16m", None),
    Case("ComponentDegraded", "for 15 min", of("status", "1x30", status="warn"), "16m", {**HERE, "status": "warn"}),
    Case("ComponentDegraded", "and passes in between", of("status", "1x9 0 1x30", status="warn"), "16m", None),
    Case("ComponentDegraded", "and fails", of("status", "1x30", status="fail"), "16m", None),
    Case("ComponentSlow", "all the time", {**of("slow", "1x40"), **of("up", "1x40")}, "20m", HERE),
    Case("ComponentSlow", "now and then", {**of("slow", "1 _ _ _ " * 10), **of("up", "1x40")}, "30m", None),
    Case(
        "CheckTimeouts",
        "in one run of six",
        {**of("failures_total", "0+1x60", error_type="timeout"), **of("duration_seconds_count", "0+6x60")},
        "40m",
        HERE,
    ),
    Case(
        "CheckTimeouts",
        "in one run of twenty",
        {**of("failures_total", "0+1x60", error_type="timeout"), **of("duration_seconds_count", "0+20x60")},
        "40m",
        None,
    ),
    Case(
        "CheckTimeouts",
        "and other failures",
        {**of("failures_total", "0+6x60", error_type="OSError"), **of("duration_seconds_count", "0+6x60")},
        "40m",
        None,
    ),
    Case("ComponentFlapping", "six times", of("up", "1 0 1 0 1 0 1x30"), "8m", HERE),
    Case("ComponentFlapping", "down and back twice", of("up", "1 0 1 0 1x30"), "8m", None),
    Case("ComponentStale", "for a minute", STALE, "3m", {**HERE, "error_type": "stale"}),
    Case("ComponentStale", "and it only fails", of("error_since_seconds", "17x30", error_type="OSError"), "3m", None),
    Case("ComponentMissing", "never decided", of("error_since_seconds", "17x30", error_type="pending"), "16m", HERE),
    Case("ComponentMissing", "still starting", of("error_since_seconds", "17x3", error_type="pending"), "16m", None),
    Case("ComponentMissing", "vanished", {**of("abandoned", "0x5 stale"), **ready("1x40")}, "25m", HERE),
    Case("ComponentMissing", "with its instance", {**of("abandoned", "0x5 stale"), **ready("1x5 stale")}, "25m", None),
    Case(
        "ComponentMissing",
        "vanished with one worker of two",
        {
            **of("abandoned", "0x5 stale", service_instance_id="1"),
            **of("abandoned", "0x40", service_instance_id="2"),
            **ready("1x40"),
        },
        "25m",
        None,
    ),
    Case("TaskRestarting", "once a minute", restarts("0+1x40"), "20m", HERE),
    Case("TaskRestarting", "once or twice", restarts("0x9 1x4 2x20"), "16m", None),
    Case("RecoveryGaveUp", "of a task", gave_up("task", "0 1x9"), "3m", {**HERE, "state": "gave_up"}),
    Case("RecoveryGaveUp", "of a component", gave_up("recovery", "0 1x9"), "3m", {**HERE, "state": "gave_up"}),
    Case("RecoveryGaveUp", "and is mended by hand", gave_up("task", "0 1 0x9"), "3m", None),
    Case("RunsAbandoned", "for 15 min", of("abandoned", "1x30"), "16m", HERE),
    Case("RunsAbandoned", "and it ended after all", of("abandoned", "1x9 0x30"), "16m", None),
    Case(
        "EventLoopStuck",
        "at once",
        of("up", "1 0x9", component="event-loop"),
        "1m",
        {**INSTANCE, "component": "event-loop"},
    ),
    Case("EventLoopStuck", "and another component fails", of("up", "0x9"), "5m", None),
    Case("EventLoopBlocked", "again and again", loop("0+241x40"), "20m", INSTANCE),
    Case("EventLoopBlocked", "once", loop("0+240x16 4081+240x20"), "20m", None),
    *(
        Case(
            BURN,
            "fast enough",
            ready(series),
            at,
            {"job": "orders", **windows},
            step,
            windows["long"],
        )
        for windows, series, at, step in (
            ({"long": "1h", "short": "5m"}, "1x60 0x5", "65m", 1),
            ({"long": "6h", "short": "30m"}, "1x80 0x3", "328m", 4),
            ({"long": "1d", "short": "2h"}, "1x280 0x3", "1132m", 4),
            ({"long": "3d", "short": "6h"}, "1x500 0x3", "2012m", 4),
        )
    ),
    Case(BURN, "too slowly", {**ready("1x80 0 1"), **ready("1x82", "b")}, "81m", None, 1, "1h"),
    Case(BURN, "too slowly", {**ready("1x120 0 1"), **ready("1x122", "b")}, "484m", None, 4, "6h"),
    Case(BURN, "only until the first round of checks is in", {**ready("0 1x60"), **ready("1x61", "b")}, "1m", None),
    Case(
        BURN,
        "soon after the service is new",
        ready("1x9 0x9"),
        "16m",
        {"job": "orders", "long": "1h", "short": "5m"},
        long="1h",
    ),
    Case(BURN, "and all has been ready for long", ready("1x10 0x2 1x100"), "420m", None, step=4),
]
"""The long windows of a burn have less to look back on than they would, which makes no difference to a share. Promtool
evaluates groups in any order, so what is recorded may be a step old."""


def unit_test(case: Case) -> dict[str, object]:
    """The case, as promtool reads it."""
    which = f'alertname="{PREFIX}{case.alert}",alertstate="firing"' + (f',long="{case.long}"' if case.long else "")
    expected = [{"labels": f"{{{labels_of(case.fires)}}}", "value": 1}] if case.fires else []
    samples = [{"series": series, "values": values} for series, values in case.series.items()]
    asked = f"max without (alertname, alertstate, severity) (ALERTS{{{which}}})"
    return {
        "interval": f"{case.step}m",
        "input_series": samples,
        "promql_expr_test": [{"expr": asked, "eval_time": case.at, "exp_samples": expected}],
    }


def labels_of(labels: dict[str, str]) -> str:
    """Labels as they stand in braces."""
    return ",".join(f'{name}="{label}"' for name, label in labels.items())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as they are shipped."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(as_yaml(rules(Options())))
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.when} {case.long}".strip())
def test_an_alert_fires_when_it_should(case: Case, shipped: Path, tmp_path: Path) -> None:
    """And not when it should not."""
    document = {"rule_files": [str(shipped)], "evaluation_interval": f"{case.step}m", "tests": [unit_test(case)]}
    (tmp_path / "test.yaml").write_text(as_yaml(document))

    command = [program("promtool", "Prometheus"), "test", "rules", str(tmp_path / "test.yaml")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_is_seen_to_fire_and_not_to() -> None:
    """No alert is without both."""
    named = {alert.name for alert in ALERTS} | {BURN}

    assert {case.alert for case in CASES if case.fires} == named
    assert {case.alert for case in CASES if not case.fires} == named
