"""The house: its layers, its public names, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otel_health

PACKAGE = Path(otel_health.__file__).parent


def modules() -> list[str]:
    """Every module of the package, but the packages' faces."""
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    return sorted(name for name in names if not name.endswith("__init__"))


LAYERS: list[set[str]] = [
    {"report", "redaction", "forks", "names", "ladder", "http.negotiation", "lifecycle.serving.slate"},
    {"threads", "history", "transition_log"},
    {"check"},
    {"compose", "instant"},
    {"client.addresses"},
    {"client.streams"},
    {"client.requests"},
    {"gate", "heartbeat"} | {module for module in modules() if module.startswith("checks.")},
    {"run", "state", "schedule"},
    {"execution"},
    {"registry"},
    {"renewal"},
    {"metrics", "events", "quiet"},
    {"remedies"},
    {"engine"},
    {"http.render"},
    {"http.status_page"},
    {"http.endpoints"},
    {"checker"},
    {"access", "exceptions", "lifecycle.loop_monitor", "lifecycle.signals", "prometheus", "testing"},
    {"debug", "lifecycle.drain", "recovery.life"},
    {"recovery.supervised"},
    {"recovery.supervisor"},
    {"recovery.actions"},
    {"registration.registry", "registration.calls", "registration.pace", "registration.findings"},
    {"registration.json_api"},
    {"registration.consul", "registration.etcd"},
    {"registration.registration"},
    {"registration.fail_open"},
    {"lifecycle.systemd", "workers.processes", "workers.exposition"},
    {"workers.meeting", "workers.leadership", "workers.page"},
    {"workers.siblings", "workers.scraping"},
    {"workers.workers"},
    {"lifecycle.serving.http1"},
    {"lifecycle.serving.listener"},
    {"lifecycle.serving.sidecar"},
    {"lifecycle.serving.answers", "lifecycle.serving.child"},
    {"lifecycle.serving.by_thread", "lifecycle.serving.by_process"},
    {"lifecycle.liveness_server"},
    {"observability.alerts", "observability.documents"},
    {"observability.rules"},
    {"observability.alertmanager", "observability.dashboards.panels"},
    {"observability.dashboards.frame"},
    {"observability.dashboards.expressions"},
    {"observability.dashboards.overview", "observability.dashboards.component", "observability.dashboards.slo"},
    {"observability.files"},
    {"observability.__main__"},
]
"""From the bottom: a module imports from the layers below its own only."""

DASHBOARDS = {"panels", "frame", "expressions", "overview", "component", "slo"}

OF_CHECKS = {"check", "compose", "client.addresses", "client.streams", "client.requests"}
"""What a check of a technology, and the client of those that need one, may import."""

FOREIGN: dict[str, set[str]] = {
    "metrics": {"opentelemetry.context", "opentelemetry.metrics"},
    "events": {"opentelemetry"},
    "transition_log": {"opentelemetry", "opentelemetry._logs"},
    "quiet": {"opentelemetry"},
    "http.endpoints": {"starlette"},
    "checker": {"opentelemetry._logs", "opentelemetry.metrics", "opentelemetry.trace", "starlette"},
    "access": {"starlette.requests"},
    "debug": {"pyinstrument", "starlette"},
    "exceptions": {"opentelemetry.metrics", "opentelemetry.trace", "opentelemetry", "starlette.types"},
    "lifecycle.drain": {"starlette"},
    "observability.documents": {"yaml"},
    "observability.files": {"grafana_foundation_sdk"},
    **{f"observability.dashboards.{each}": {"grafana_foundation_sdk"} for each in DASHBOARDS},
    "prometheus": {"opentelemetry", "prometheus_client", "starlette"},
}
"""The third parties that a module may import; the others import the standard library alone."""

TELEMETRY_AND_HTTP = {"metrics", "events", "quiet", "http.render", "http.status_page", "http.endpoints"}


def imports(module: str) -> set[str]:
    """Every module that this one imports, by its full name."""
    tree = ast.parse((PACKAGE / module.replace(".", "/")).with_suffix(".py").read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            packages = {name for name in whole if name.removeprefix("otel_health.") in modules()}
            found |= packages or {str(node.module)}
    return found


def layer(module: str) -> int:
    """The floor on which a module stands; the package's face stands on the Checker's."""
    module = "checker" if module == "otel_health" else module
    return next(number for number, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("module", modules())
def test_arrows_point_down_only(module: str) -> None:
    """A module imports from the layers below its own; telemetry and HTTP from the two lowest alone."""
    ours = {name.removeprefix("otel_health.") for name in imports(module) if name.startswith("otel_health")}

    for imported in ours:
        assert layer(imported) < layer(module), f"{module} imports {imported}"
    if module in TELEMETRY_AND_HTTP:
        assert ours <= LAYERS[0] | LAYERS[1] | {"http.render", "http.status_page"}, module
    if module.startswith(("checks.", "client.")):
        assert ours <= OF_CHECKS, module


@pytest.mark.parametrize("module", modules())
def test_third_parties_stay_where_they_belong(module: str) -> None:
    """Only `prometheus` knows the SDK; the core knows nobody."""
    foreign = {
        name
        for name in imports(module)
        if not name.startswith("otel_health") and name.split(".")[0] not in sys.stdlib_module_names
    }

    allowed = FOREIGN.get(module, set())
    assert all(any(name == each or name.startswith(f"{each}.") for each in allowed) for name in foreign), foreign
    if module != "prometheus":
        assert not [name for name in foreign if ".sdk" in name or ".exporter" in name]


def test_every_module_stands_on_a_floor() -> None:
    """A new room is given its place when it is built."""
    assert set(modules()) == set().union(*LAYERS)


def test_the_public_names() -> None:
    """One list, sorted, and everything on it exists."""
    assert list(otel_health.__all__) == sorted(otel_health.__all__)
    public = {name for name, value in vars(otel_health).items() if not name.startswith("_") and not _is_module(value)}
    assert public == set(otel_health.__all__)


def test_every_public_name_has_a_docstring() -> None:
    """The first line is a sentence for the caller."""
    for name in otel_health.__all__:
        documentation = getattr(otel_health, name).__doc__
        if name != "CheckFunc":
            assert documentation, name
            assert documentation.strip().splitlines()[0].rstrip().endswith((".", ":")), name


def _is_module(value: object) -> bool:
    return type(value).__name__ == "module"


def in_fresh_interpreter(program: str) -> str:
    """What this program prints in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_importing_starts_nothing_and_loads_no_sdk() -> None:
    """No thread, no task, no socket; the SDK is loaded by `otel_health.prometheus` alone."""
    program = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
import otel_health
assert threading.active_count() == 1
assert set(os.listdir("/proc/self/fd")) == before
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "prometheus_client", "uvicorn"))])
"""
    assert in_fresh_interpreter(program) == "[]"


def test_the_package_is_typed() -> None:
    """Users' type checkers see the annotations."""
    assert (PACKAGE / "py.typed").exists()


def test_ages_never_come_from_the_wall_clock() -> None:
    """`time.time` is for display; it appears where results are dated, and where what is checked has a date."""
    found = {
        module for module in modules() if "time.time()" in (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    }

    assert found <= {
        "engine",
        "remedies",
        "compose",
        "registry",
        "http.endpoints",
        "checks.tls",
        "checks.file",
        "registration.fail_open",
    }
