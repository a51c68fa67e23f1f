"""The rules and routes: Prometheus and Alertmanager take them, and what makes no sense is refused."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_health import names
from otel_health.observability.__main__ import main
from otel_health.observability.alertmanager import Routes
from otel_health.observability.alerts import ALERTS, BURN, PREFIX
from otel_health.observability.documents import as_yaml
from otel_health.observability.rules import Options, rules
from tests.servers import program

ROOT = Path(__file__).parent.parent.parent
INSTRUMENTS = re.compile(
    r"otel_health\.((check|probe|recovery|registration|task)\.\w+|event_loop\.lag|unhandled_exceptions)"
)
CASES = [
    [],
    ["--selector", 'job="orders"', "--slo", "99.5", "--slo-days", "7"],
    ["--selector", 'job=~"orders|BY{2}", namespace!="test"', "--by", "namespace,job", "--interval", "15s"],
    ["--page-after", "0", "--ticket-after", "1h30m", "--window", "30m", "--flaps", "3", "--timeouts", "0.5"],
]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command writes when it is given these arguments."""

    def write(*arguments: str) -> str:
        main(arguments)
        return capsys.readouterr().out

    return write


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_promtool_takes_the_rules(arguments: list[str], written: Callable[..., str], tmp_path: Path) -> None:
    """Whatever they are asked to be about."""
    path = tmp_path / "rules.yaml"
    path.write_text(written("rules", *arguments))

    checked = subprocess.run([program("promtool", "Prometheus"), "check", "rules", str(path)], capture_output=True)

    assert checked.returncode == 0, checked.stderr


def test_amtool_takes_the_routes(written: Callable[..., str], tmp_path: Path) -> None:
    """And sends what wakes people to one receiver, all else to the other."""
    path = tmp_path / "alertmanager.yaml"
    path.write_text(written("alertmanager", "--by", "namespace,job", "--page-url", "http://pager.example/"))
    amtool = program("amtool", "Alertmanager")

    for severity, receiver in (("critical", "page"), ("warning", "ticket")):
        asked = [amtool, "config", "routes", "test", f"--config.file={path}", f"severity={severity}"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == receiver
    assert "url: http://pager.example/" in path.read_text()


def test_every_expression_is_about_the_selected_series() -> None:
    """Nothing of another service comes in, not even through what is recorded."""
    made = as_yaml(rules(Options(selector='job="orders"')))

    assert made.count("otel_health_check_up{") == made.count('otel_health_check_up{job="orders"')
    assert made.count("ratio{") == made.count('ratio{job="orders"}')
    assert ' up{job="orders"} == 0' in made


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"selector": "orders"}, "write something like"),
        ({"selector": 'job="orders'}, "write something like"),
        ({"selector": 'namespace="shop"'}, "add it to by='job'"),
        ({"by": "namespace"}, "leaves out 'job'"),
        ({"by": "job,"}, "no list of labels"),
        ({"slo": 100}, "a percentage below 100"),
        ({"slo": 0.999}, "a percentage below 100, such as 99.9"),
        ({"slo": 90}, "promise more"),
        ({"slo_days": 0}, "whole numbers"),
        ({"flaps": 0}, "whole numbers"),
        ({"timeouts": 1.0}, "between 0 and 1"),
        ({"page_after": "soon"}, "no duration of Prometheus"),
        ({"window": ""}, "no duration of Prometheus"),
        ({"window": "0"}, "is no time at all"),
        ({"window": "0h0m"}, "is no time at all"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], complaint: str) -> None:
    """With the next step, before Prometheus is reloaded with rules that never fire."""
    with pytest.raises(ValueError, match=complaint):
        Options(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"by": "namespace"}, "leaves out 'job'"),
        ({"page_url": "pager.example"}, "page_url='pager.example' is no webhook"),
        ({"ticket_url": ""}, "ticket_url='' is no webhook"),
        ({"group_wait": "soon"}, "no duration"),
        ({"group_interval": "0m"}, "is no time at all"),
        ({"repeat_interval": "0"}, "is no time at all"),
    ],
)
def test_routes_that_make_no_sense_are_refused(options: dict[str, str], complaint: str) -> None:
    """Before Alertmanager is restarted, and does not come up."""
    with pytest.raises(ValueError, match=complaint):
        Routes(**options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["rules", "--slo", "90"], "promise more"), (["dashboards", "--to", "/dev/null"], "'/dev/null'")],
)
def test_the_command_says_what_is_wrong(arguments: list[str], complaint: str) -> None:
    """In one sentence, without a traceback."""
    command = [sys.executable, "-m", "otel_health.observability", *arguments]

    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(complaint)
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("package", ["grafana_foundation_sdk", "yaml"])
def test_the_command_says_what_it_lacks(package: str) -> None:
    """And how to get it: the extra is easily forgotten."""
    run = "import runpy; runpy.run_module('otel_health.observability', run_name='__main__')"
    command = [sys.executable, "-c", f"import sys; sys.modules['{package}'] = None; {run}"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert ended.returncode == 1
    assert package in ended.stderr
    assert ended.stderr.strip().endswith("; type: pip install 'otel-health[observability]'")
    assert "Traceback" not in ended.stderr


def test_what_is_written_repeats_itself_rather_than_refer() -> None:
    """Whoever reads the file is spared YAML's anchors."""
    assert as_yaml([(labels := ["job"]), labels]) == "- - job\n- - job\n"


@pytest.mark.parametrize("name", sorted({alert.name for alert in ALERTS} | {BURN}))
def test_every_alert_has_a_runbook(name: str) -> None:
    """That says what it means, what to look at, and what to do."""
    text = (ROOT / "docs" / "runbooks" / f"{PREFIX}{name}.md").read_text()

    assert text.startswith(f"# {PREFIX}{name}\n")
    assert all(f"\n## {part}\n" in text for part in ("What it means", "What to look at", "What to do"))


def test_every_metric_and_every_alert_is_in_the_docs() -> None:
    """By both of its names, once; the table has none that does not exist."""
    page = (ROOT / "docs" / "observability.md").read_text()
    metrics = {value for value in vars(names).values() if isinstance(value, str) and INSTRUMENTS.fullmatch(value)}
    alerts = {f"{PREFIX}{name}" for name in {alert.name for alert in ALERTS} | {BURN}}

    told = re.findall(r"^\| `(otel_health\.[\w.]+)` \| `(otel_health_\w+)` \|", page, re.MULTILINE)
    assert {name for name, _ in told} == metrics
    assert all(shown.startswith(name.replace(".", "_")) for name, shown in told)
    assert set(re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\)", page, re.MULTILINE)) == alerts
