"""The dashboards: what is shipped is what is generated, and what dashboard-linter asks of a dashboard holds."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from otel_health.observability.files import FILES, dashboards, shipped

NAMES = ("overview", "component", "slo")
BOARDS = {name: json.loads(dashboards()[f"{name}.json"]) for name in NAMES}
PICTURES = Path(__file__).parent / "pictures"
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}


def panels() -> list[Any]:
    """Every panel of every dashboard."""
    return [
        pytest.param(name, panel, id=f"{name}: {panel['title']}")
        for name, board in BOARDS.items()
        for panel in board["panels"]
    ]


def targets() -> list[Any]:
    """Every query of every panel."""
    return [
        pytest.param(name, target, id=f"{name}: {panel['title']} {target['refId']}")
        for name, board in BOARDS.items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def test_what_is_shipped_is_what_is_generated(tmp_path: Path) -> None:
    """To the byte: `python -m otel_health.observability all --to otel_health/observability/files` writes it anew."""
    command = [sys.executable, "-m", "otel_health.observability", "all", "--to", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)

    def within(directory: Path) -> dict[str, str]:
        return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}

    assert within(FILES) == within(tmp_path) == shipped()


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_comes_back_from_its_json(name: str) -> None:
    """Grafana's own model reads it, and writes the same."""
    register_default_plugins()
    board = BOARDS[name]

    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_chosen_in_and_found_again(name: str) -> None:
    """Linter: template-datasource, template-job, template-instance, on-time-change-reload, uneditable-dashboard."""
    board = BOARDS[name]
    variables = {each["name"]: each for each in board["templating"]["list"]}

    assert board["editable"] is False
    assert board["uid"] == f"otel-health-{name}"
    assert (variables["datasource"]["query"], variables["datasource"]["label"]) == ("prometheus", "Data source")
    for label in {"job", "instance"} & set(variables):
        variable = variables[label]
        assert (variable["label"], variable["allValue"]) == (label.capitalize(), ".+")
        assert variable["multi"] is variable["includeAll"] is True
    for variable in variables.values():
        assert variable["type"] == "datasource" or variable["refresh"] == 2
        assert variable["type"] == "datasource" or variable["datasource"]["uid"] == "${datasource}"
    assert set(variables) == {"datasource", "job"} | (set() if name == "slo" else {"instance", "component"})
    (link,) = board["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        ["otel_health"],
        True,
        True,
    )
    assert "otel_health" in board["tags"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_are_told_apart_and_none_overlaps_another(name: str) -> None:
    """Unique ids, unique titles; every row of the grid is filled from edge to edge."""
    found = BOARDS[name]["panels"]
    cells = [
        (x, y)
        for panel in found
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in found}) == len({panel["title"] for panel in found}) == len(found)
    assert len(cells) == len(set(cells)) == 24 * (1 + max(y for _, y in cells))


@pytest.mark.parametrize(("name", "panel"), panels())
def test_a_panel_says_what_it_shows(name: str, panel: dict[str, Any]) -> None:
    """Linter: panel-datasource, panel-title-description, panel-units, panel-no-targets; and a word where nothing is."""
    defaults = panel["fieldConfig"]["defaults"]

    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, name
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert defaults["unit"] in UNITS | {"x"}
    assert defaults["mappings"]
    assert defaults["noValue"]
    assert panel["targets"]


@pytest.mark.parametrize(("name", "target"), targets())
def test_a_query_asks_for_what_was_chosen(name: str, target: dict[str, Any]) -> None:
    """Linter: target-job, target-instance, target-rate-interval, target-counter-agg; the SLO is a service's, not an
    instance's."""
    expression = target["expr"]
    selectors = re.findall(r"[a-z_:0-9]+\{([^}]*)\}", expression)

    assert selectors
    assert len(selectors) == len(
        re.findall(r"\b(?:up|job:\w+:\w+|job_component:\w+:\w+|otel_health_\w+)\b", expression)
    )
    assert all('job=~"$job"' in selector for selector in selectors)
    assert name == "slo" or all('instance=~"$instance"' in selector for selector in selectors)
    assert set(re.findall(r"\[(.*?)\]", expression)) <= {"$__rate_interval", "$__range"}
    for counter in re.findall(r"(\w+\()?otel_health_\w+_(?:total|count|sum|bucket)\{", expression):
        assert counter == "rate("
    assert target["refId"] in "ABCDEFGH"
    assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_kind_of_panel_can_be_drawn() -> None:
    """For the pictures of the documentation: `python -m tests.screenshots`."""
    kinds = re.search(r"const KINDS = \{(.*?)\}", (PICTURES / "dashboard.jsx").read_text(), re.DOTALL)

    assert kinds
    assert set(re.findall(r"'([\w-]+)':", kinds[1])) == {
        panel["type"] for b in BOARDS.values() for panel in b["panels"]
    }
