"""What the examples hand to Kubernetes and to systemd: well-formed, and fitting what the library does."""

import inspect
import runpy
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from otel_health import Checker
from otel_health.lifecycle import Drain

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

EXAMPLES = Path(__file__).parent.parent / "examples"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))


def defaults() -> dict[str, Any]:
    """What a Drain does when nothing is said."""
    return {name: parameter.default for name, parameter in inspect.signature(Drain).parameters.items()}


def container() -> dict[str, Any]:
    """The one container of the deployment, and its pod's patience."""
    pod = yaml.safe_load((EXAMPLES / "kubernetes" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    only: dict[str, Any] = {**pod["containers"][0], "grace": pod["terminationGracePeriodSeconds"]}
    return only


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_the_manifests_are_what_the_api_takes(manifest: Path, version: str) -> None:
    """Strictly: a field that the API would drop in silence is refused."""
    kubernetes_validate.validate(yaml.safe_load(manifest.read_text()), version, strict=True)


def test_the_validation_refuses_what_it_should() -> None:
    """A misspelt probe is the mistake that nobody sees."""
    deployment = yaml.safe_load((EXAMPLES / "kubernetes" / "deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]["containers"][0]
    spec["livenessProb"] = spec.pop("livenessProbe")

    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


def test_the_pods_patience_outlasts_the_drain() -> None:
    """Nothing is killed that would have ended by itself, and at the defaults it all fits into Kubernetes' 30 s."""
    drain = defaults()

    assert drain["delay"] + drain["cap"] <= 25 < container()["grace"] == 30


def test_each_probe_is_asked_where_it_is_answered() -> None:
    """Paths that exist, ports that are named, and a timeout above the budget in which every probe answers."""
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    probes = {name: container()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}

    asked = {name: (probe["httpGet"]["path"], ports[probe["httpGet"]["port"]]) for name, probe in probes.items()}
    assert asked == {"startup": ("/startupz", 8080), "liveness": ("/livez", 8081), "readiness": ("/readyz", 8080)}
    assert all(probe["timeoutSeconds"] > Checker().answer_within for probe in probes.values())


def test_the_service_sends_nothing_to_the_liveness_port() -> None:
    """It selects the deployment's pods, and targets the port that serves."""
    service = yaml.safe_load((EXAMPLES / "kubernetes" / "service.yaml").read_text())["spec"]
    deployment = yaml.safe_load((EXAMPLES / "kubernetes" / "deployment.yaml").read_text())["spec"]

    assert service["selector"] == deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert [port["targetPort"] for port in service["ports"]] == ["http"]


def test_the_unit_fits_the_drain_and_the_watchdog() -> None:
    """It waits for the drain, listens to its main process, and a busy loop does not cost it its life."""
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string((EXAMPLES / "systemd" / "orders.service").read_text())
    service, drain = unit["Service"], defaults()

    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
    assert float(service["TimeoutStopSec"]) > drain["delay"] + drain["cap"]
    assert float(service["WatchdogSec"]) >= 10


def test_gunicorn_takes_its_configuration() -> None:
    """And its patience outlasts the drain."""
    command = [sys.executable, "-m", "gunicorn", "--check-config", "-c", "examples/gunicorn_conf.py"]
    drain, settings = defaults(), runpy.run_path(str(EXAMPLES / "gunicorn_conf.py"))

    subprocess.run([*command, "examples.five_lines:app"], cwd=EXAMPLES.parent, check=True, timeout=60)
    assert settings["graceful_timeout"] > drain["delay"] + drain["cap"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Where systemd is installed it is asked itself."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    program = tmp_path / "uvicorn"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "orders.service"
    unit.write_text(
        (EXAMPLES / "systemd" / "orders.service").read_text().replace("/opt/orders/bin/uvicorn", str(program))
    )
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)

    assert "Unknown" not in verified.stderr
