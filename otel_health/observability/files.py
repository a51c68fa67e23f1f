"""Every file that is shipped, as it is generated."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from otel_health.observability.alertmanager import Routes, alertmanager
from otel_health.observability.dashboards.component import component
from otel_health.observability.dashboards.overview import overview
from otel_health.observability.dashboards.slo import slo
from otel_health.observability.documents import as_yaml
from otel_health.observability.rules import Options, rules

FILES: Final = Path(__file__).with_name("files")
"""Where they are."""

FOLDER: Final = "Health"

_DATASOURCES: Final = {
    "apiVersion": 1,
    "datasources": [
        {
            "name": "Prometheus",
            "uid": "prometheus",
            "type": "prometheus",
            "access": "proxy",
            "url": "${PROMETHEUS_URL}",
            "isDefault": True,
            "jsonData": {"timeInterval": "15s"},
        }
    ],
}

_PROVIDERS: Final = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "otel_health",
            "folder": FOLDER,
            "type": "file",
            "allowUiUpdates": False,
            "options": {"path": "/var/lib/grafana/dashboards/otel_health"},
        }
    ],
}


def dashboards() -> dict[str, str]:
    """Return the dashboards as Grafana reads them, by the names of their files."""
    return {f"{name}.json": _as_json(made()) for name, made in _DASHBOARDS.items()}


def shipped() -> dict[str, str]:
    """Return the text of every file, by its path within the directory."""
    return {
        "rules.yaml": as_yaml(rules(Options())),
        "alertmanager.yaml": as_yaml(alertmanager(Routes())),
        "grafana/provisioning/datasources/otel_health.yaml": as_yaml(_DATASOURCES),
        "grafana/provisioning/dashboards/otel_health.yaml": as_yaml(_PROVIDERS),
        **{f"grafana/dashboards/{name}": text for name, text in dashboards().items()},
        "kubernetes/prometheusrule.yaml": as_yaml(_prometheus_rule()),
        "kubernetes/dashboards.yaml": "---\n".join(as_yaml(each) for each in _config_maps()),
    }


def _prometheus_rule() -> dict[str, object]:
    """The rules as the operator of Prometheus takes them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "otel-health", "labels": {"app.kubernetes.io/name": "otel-health"}},
        "spec": rules(Options()),
    }


def _config_maps() -> Iterator[dict[str, object]]:
    """The dashboards as the sidecar of Grafana's chart finds them."""
    for name, text in dashboards().items():
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"otel-health-{name.removesuffix('.json')}",
                "labels": {"grafana_dashboard": "1"},
                "annotations": {"grafana_folder": FOLDER},
            },
            "data": {f"otel-health-{name}": text},
        }


_DASHBOARDS: Final = {"overview": overview, "component": component, "slo": slo}


def _as_json(made: dashboard.Dashboard) -> str:
    built = made.build()
    for number, panel in enumerate(built.panels or (), 1):
        panel.id_val = number
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
