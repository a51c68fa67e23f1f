"""From what fails to who is told, through the real Prometheus and the real Alertmanager."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest

from otel_health.observability.alertmanager import INHIBITED, Routes, alertmanager
from otel_health.observability.alerts import PREFIX
from otel_health.observability.rules import Options, rules
from tests.observability.stack import (
    PATIENCE,
    Prometheus,
    Webhook,
    comes_true,
    own_alertmanager,
    own_prometheus,
    own_webhook,
)
from tests.servers import OwnServer, own_postgres
from tests.services import serving

AT_ONCE: Final = Options(page_after="0s", not_ready_after="3s", ticket_after="3s", interval="1s", slow_interval="1s")

ORDERS: Final = '''
"""A service over PostgreSQL, with fifty components that fail when a file is there."""
import os
from pathlib import Path
import asyncpg
from starlette.applications import Starlette
from otel_health import Checker
from otel_health.prometheus import PrometheusExporter

exporter = PrometheusExporter()
checker = Checker(interval=0.5, timeout=0.5, meter_provider=exporter.meter_provider)

if "POSTGRES" in os.environ:
    @checker.check("postgres")
    async def postgres():
        connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{os.environ['POSTGRES']}/postgres")
        await connection.close()

for number in range(int(os.environ.get("COMPONENTS", "0"))):
    checker.add(f"component-{number}", lambda: not Path(os.environ["BROKEN"]).exists())

app = Starlette(routes=[*checker.routes(), exporter.route("/metrics")], lifespan=checker.lifespan)
'''


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """Whom Alertmanager tells."""
    with own_webhook() as listening:
        yield listening


def routes(webhook: Webhook, group_interval: str = "5m") -> dict[str, Any]:
    """The routes, with little patience for the first message."""
    urls = {"page_url": f"{webhook.url}/page", "ticket_url": f"{webhook.url}/ticket"}
    return alertmanager(Routes(**urls, group_wait="2s", group_interval=group_interval))


def healthy(prometheus: Prometheus, instances: int = 1) -> None:
    """Wait until all instances are known, and nothing is wrong."""
    comes_true(lambda: len(prometheus.now('otel_health_probe_up{probe="readyz"} == 1')) == instances)
    comes_true(lambda: prometheus.now("job:otel_health_ready:ratio == 1"))


def test_a_killed_postgres_becomes_a_page_and_is_taken_back(tmp_path: Path, webhook: Webhook) -> None:
    """Each within 10 s: scrape, rule, alert, webhook; and the page names what failed, where, and what to read."""
    with (
        own_postgres() as postgres,
        serving(tmp_path, source=ORDERS, POSTGRES=str(postgres.port)) as service,
        own_alertmanager(routes(webhook, group_interval="1s")) as manager,
        own_prometheus({"orders": {"a": service.port}}, rules(AT_ONCE), manager.port) as prometheus,
    ):
        healthy(prometheus)
        postgres.kill()
        took = comes_true(lambda: "OtelHealthComponentDown" in webhook.alerts("/page", "firing"))
        assert took < 10
        (alert,) = [each for each in webhook.told[0][2]["alerts"] if each["labels"]["alertname"].endswith("Down")]
        assert alert["labels"]["component"] == "postgres"
        assert alert["annotations"]["description"].startswith("postgres fails on a of orders")
        assert alert["annotations"]["runbook_url"].endswith("/OtelHealthComponentDown.md")

        postgres.start()
        postgres.wait_until_ready()
        took = comes_true(lambda: "OtelHealthComponentDown" in webhook.alerts("/page", "resolved"))
        assert took < 10


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The file whose being there breaks the components."""
    return tmp_path / "broken"


def test_fifty_components_of_a_dying_instance_are_one_page(tmp_path: Path, broken: Path, webhook: Webhook) -> None:
    """They fail, then the process dies: fifty-one reasons, and one message that says what is the matter."""
    with (
        serving(tmp_path, source=ORDERS, COMPONENTS="50", BROKEN=str(broken)) as service,
        own_alertmanager(routes(webhook)) as manager,
        own_prometheus({"orders": {"a": service.port}}, rules(AT_ONCE), manager.port) as prometheus,
    ):
        healthy(prometheus)
        broken.touch()
        comes_true(lambda: len(prometheus.now('ALERTS{alertname="OtelHealthComponentDown",alertstate="firing"}')) == 50)
        service.signal(signal.SIGKILL)
        comes_true(lambda: prometheus.now('ALERTS{alertname="OtelHealthInstanceDown",alertstate="firing"}'))
        comes_true(lambda: firing(manager) >= {"OtelHealthInstanceDown"})
        comes_true(lambda: webhook.told)
        comes_true(lambda: not prometheus.now('ALERTS{alertname="OtelHealthComponentDown"}'))

    assert len([path for _, path, _ in webhook.told if path == "/page"]) == 1


def test_a_dependency_that_fails_everywhere_is_one_page(tmp_path: Path, broken: Path, webhook: Webhook) -> None:
    """Two instances say the same: whoever is woken reads of the dependency, not of instances."""
    (tmp_path / "b").mkdir()
    with (
        serving(tmp_path, source=ORDERS, COMPONENTS="1", BROKEN=str(broken)) as one,
        serving(tmp_path / "b", source=ORDERS, COMPONENTS="1", BROKEN=str(broken)) as other,
        own_alertmanager(routes(webhook)) as manager,
        own_prometheus({"orders": {"a": one.port, "b": other.port}}, rules(AT_ONCE), manager.port) as prometheus,
    ):
        healthy(prometheus, instances=2)
        broken.touch()
        comes_true(lambda: webhook.told)
        comes_true(lambda: firing(manager) >= {"OtelHealthComponentDown", "OtelHealthInstanceNotReady"})

    assert [path for _, path, _ in webhook.told] == ["/page"]
    assert webhook.alerts("/page", "firing") == {"OtelHealthComponentDownEverywhere"}


def firing(manager: OwnServer) -> set[str]:
    """The names of all alerts that Alertmanager holds, silenced or not."""
    return {alert["labels"]["alertname"] for alert in held(manager)}


def held(manager: OwnServer) -> list[dict[str, Any]]:
    """Every alert as Alertmanager holds it."""
    with urlopen(f"http://127.0.0.1:{manager.port}/api/v2/alerts", timeout=PATIENCE) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def test_each_alert_silences_what_it_explains(webhook: Webhook) -> None:
    """Within its service, and for the same instance or component; elsewhere nothing is silenced."""
    alerts = []
    for source, targets, what in INHIBITED:
        for target in targets:
            same = {"job": f"{source} {target} {what}", "instance": "a", "component": "postgres"}
            other = {**same, **({what.split(",")[0]: "another"} if what else {"job": "another"})}
            alerts.append({"alertname": f"{PREFIX}{source}", **same, "expected": "no"})
            alerts.append({"alertname": f"{PREFIX}{target}", **same, "expected": "yes"})
            alerts.append({"alertname": f"{PREFIX}{target}", **other, "expected": "no"})
    with own_alertmanager(routes(webhook)) as manager:
        posted = json.dumps([{"labels": labels} for labels in alerts]).encode()
        asked = Request(f"http://127.0.0.1:{manager.port}/api/v2/alerts", posted, {"content-type": "application/json"})
        urlopen(asked, timeout=PATIENCE).close()
        comes_true(lambda: len(held(manager)) == len({tuple(sorted(each.items())) for each in alerts}))
        comes_true(lambda: any(alert["status"]["inhibitedBy"] for alert in held(manager)))

        for alert in held(manager):
            silenced = "yes" if alert["status"]["inhibitedBy"] else "no"
            assert silenced == alert["labels"]["expected"], alert["labels"]
