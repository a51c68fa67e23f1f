"""What the examples hand to compose and to Kubernetes: taken by their schemas, and fitting one another."""

import json
import re
import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from otel_health.observability.documents import as_yaml
from otel_health.observability.files import FILES, dashboards
from otel_health.observability.rules import Options, rules
from tests.observability.prometheus_operator import taken_by_the_operator
from tests.servers import program

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
OBSERVABILITY = EXAMPLES / "observability"
OF_THE_OPERATOR = (
    FILES / "kubernetes" / "prometheusrule.yaml",
    OBSERVABILITY / "kubernetes" / "podmonitor.yaml",
    OBSERVABILITY / "kubernetes" / "servicemonitor.yaml",
)


def document(path: Path) -> Any:
    """What a file holds."""
    return yaml.safe_load(path.read_text())


def test_the_operator_takes_what_is_meant_for_it() -> None:
    """By the schemas of its custom resources, and whole: a field that the API would drop in silence is missed."""
    manifests = [document(path) for path in OF_THE_OPERATOR]

    assert taken_by_the_operator(*manifests) == manifests


def test_the_operator_refuses_what_it_should() -> None:
    """A duration that is none, a choice that there is not, a field that is misspelt."""
    monitor = document(OBSERVABILITY / "kubernetes" / "servicemonitor.yaml")

    def with_endpoint(**fields: str) -> Any:
        return {**monitor, "spec": {**monitor["spec"], "endpoints": [fields]}}

    duration, choice, dropped = taken_by_the_operator(
        with_endpoint(interval="15 sec"), with_endpoint(scheme="gopher"), with_endpoint(metricsPath="/metrics")
    )

    assert "spec.endpoints.0.interval" in duration
    assert "spec.endpoints.0.scheme" in choice
    assert dropped == with_endpoint()


def test_compose_takes_its_file() -> None:
    """By the Compose specification."""
    text = (OBSERVABILITY / "compose.yaml").read_text()

    assert set(PyCompose.from_yaml(text).service_names()) == {"orders", "prometheus", "alertmanager", "grafana"}
    with pytest.raises(ValueError, match="`port`"):
        PyCompose.from_yaml(text.replace("    ports:", "    port:", 1))


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
def test_the_dashboards_are_config_maps_that_the_sidecar_finds(version: str) -> None:
    """Strictly valid, labelled, and each holds its dashboard."""
    found = list(yaml.safe_load_all((FILES / "kubernetes" / "dashboards.yaml").read_text()))

    for config_map in found:
        kubernetes_validate.validate(config_map, version, strict=True)
        assert config_map["metadata"]["labels"] == {"grafana_dashboard": "1"}
    held = {name: json.loads(text) for config_map in found for name, text in config_map["data"].items()}
    assert held == {f"otel-health-{name}": json.loads(text) for name, text in dashboards().items()}


def test_the_prometheus_rule_holds_the_rules(tmp_path: Path) -> None:
    """Its spec is what promtool takes."""
    rule = document(FILES / "kubernetes" / "prometheusrule.yaml")
    path = tmp_path / "rules.yaml"
    path.write_text(as_yaml(rule["spec"]))

    subprocess.run([program("promtool", "Prometheus"), "check", "rules", str(path)], check=True, capture_output=True)
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == rules(Options())


def test_the_monitors_scrape_ports_that_are_there() -> None:
    """Of the Service and the pods of the other example, under a job that is named after them."""
    service = document(EXAMPLES / "kubernetes" / "service.yaml")
    deployment = document(EXAMPLES / "kubernetes" / "deployment.yaml")
    of_service = document(OBSERVABILITY / "kubernetes" / "servicemonitor.yaml")["spec"]
    of_pods = document(OBSERVABILITY / "kubernetes" / "podmonitor.yaml")["spec"]
    pod = deployment["spec"]["template"]

    assert of_service["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert of_pods["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert {each["port"] for each in of_service["endpoints"]} <= {each["name"] for each in service["spec"]["ports"]}
    ports = {each["name"] for container in pod["spec"]["containers"] for each in container["ports"]}
    assert {each["port"] for each in of_pods["podMetricsEndpoints"]} <= ports
    assert of_service["jobLabel"] in service["metadata"]["labels"]
    assert of_pods["jobLabel"] in pod["metadata"]["labels"]


def test_compose_mounts_files_that_are_there() -> None:
    """Every path exists, and every name and port that one service calls another by."""
    composed = document(OBSERVABILITY / "compose.yaml")["services"]
    mounted = {
        target: source for each in composed.values() for source, target, _ in map(_split, each.get("volumes", ()))
    }

    assert all((OBSERVABILITY / source).exists() for source in mounted.values())
    for name, each in composed.items():
        for option in each.get("command", ()):
            path = option.partition("=")[2]
            assert not path or path in mounted, f"{name} reads {path}"
    provider = document(FILES / "grafana" / "provisioning" / "dashboards" / "otel_health.yaml")["providers"][0]
    assert provider["options"]["path"] in mounted
    scraped = (OBSERVABILITY / "prometheus.yaml").read_text() + composed["grafana"]["environment"]["PROMETHEUS_URL"]
    called = set(re.findall(r"\b(orders|alertmanager|prometheus):(\d+)", scraped))
    published = {(name, port.split(":")[-1]) for name, each in composed.items() for port in each["ports"]}
    assert called <= published
    assert len(called) == 3


def _split(volume: str) -> tuple[str, str, str]:
    source, target, mode = volume.split(":")
    return source, target, mode


def configurations() -> list[Any]:
    """That of the example, and the one that the page shows."""
    page = (EXAMPLES.parent / "docs" / "observability.md").read_text()
    shown = re.search(r"  ```yaml\n(.*?)  ```", page, re.DOTALL)
    assert shown
    return [
        pytest.param((OBSERVABILITY / "prometheus.yaml").read_text(), id="example"),
        pytest.param(dedent(shown[1]), id="page"),
    ]


@pytest.mark.parametrize("configuration", configurations())
def test_promtool_takes_the_configuration(configuration: str, tmp_path: Path) -> None:
    """With the rules that are read beside it."""
    (tmp_path / "prometheus.yaml").write_text(configuration)
    (tmp_path / "rules.yaml").write_text((FILES / "rules.yaml").read_text())
    command = [program("promtool", "Prometheus"), "check", "config", str(tmp_path / "prometheus.yaml")]

    assert subprocess.run(command, capture_output=True).returncode == 0
