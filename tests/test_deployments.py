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
from tests.soak.http import until

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


def test_the_unit_has_a_graceful_restart_undone_and_a_crash_loop_slowed_down() -> None:
    """A SIGTERM is no failure to systemd; whoever cannot start is tried for as long as it takes, but not at once."""
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string((EXAMPLES / "systemd" / "orders.service").read_text())

    assert unit["Service"]["Restart"] == "always"
    assert float(unit["Service"]["RestartSec"]) >= 5
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def supervised() -> RawConfigParser:
    """What the example says to supervisord."""
    config = RawConfigParser(strict=True, inline_comment_prefixes=(" ;",))
    config.read_string((EXAMPLES / "supervisord" / "orders.conf").read_text())
    return config


def test_supervisords_patience_outlasts_the_drain() -> None:
    """It waits for the drain, and starts anew whatever ends."""
    program, drain = supervised()["program:orders"], defaults()

    assert float(program["stopwaitsecs"]) > drain["delay"] + drain["cap"]
    assert (program["stopsignal"], program["stopasgroup"], program["autorestart"]) == ("TERM", "false", "true")


LIVES = """
import asyncio, os
from otel_health import Checker
from otel_health.lifecycle import Drain
from tests.soak.http import until
from otel_health.recovery import graceful_restart

def say(word):
    with open(os.environ["SAID"], "a") as said:
        said.write(word + " ")

async def fails():
    return os.path.exists("restarted")

async def main():
    checker = Checker()
    drain = Drain(checker, delay=0.2)
    checker.add("redis", fails, recover=graceful_restart(drain, failing_for=0.001, min_uptime=0.001))
    async with checker, drain:
        say("up")
        await drain.wait()
        say("drained")
        open("restarted", "w").close()

asyncio.run(main())
"""


def test_supervisord_starts_anew_what_restarts_itself_and_drains_what_it_stops(tmp_path: Path) -> None:
    """The real one: a recovery action ends the process in good order, it is back, and a stop is a drain."""
    pytest.importorskip("supervisor")
    said = tmp_path / "said"
    (tmp_path / "lives.py").write_text(LIVES)
    program = dict(supervised()["program:orders"])
    del program["user"]
    program |= {"command": f"{sys.executable} lives.py", "directory": str(tmp_path), "startsecs": "0"}
    program |= {"stdout_logfile": str(tmp_path / "log"), "environment": f'SAID="{said}",PYTHONPATH="{EXAMPLES.parent}"'}
    lines = [f"{key}={value}" for key, value in program.items()]
    config = tmp_path / "supervisord.conf"
    config.write_text("\n".join(["[supervisord]", f"logfile={tmp_path}/supervisord.log", "[program:orders]", *lines]))
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]
    daemon = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def words() -> list[str]:
        return said.read_text().split() if said.exists() else []

    try:
        until(lambda: words() == ["up", "drained", "up"])
        daemon.terminate()
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert words() == ["up", "drained", "up", "drained"]
    assert "Traceback" not in (tmp_path / "log").read_text()
