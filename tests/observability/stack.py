"""A Prometheus and an Alertmanager of a test's own, and a webhook that they reach."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

from otel_health.observability.documents import as_yaml
from tests.servers import OwnServer, own_server, program

PATIENCE: Final = 30.0
"""Seconds that a busy machine may take for what should take a few."""

Targets = dict[str, dict[str, int]]
"""The ports that are scraped, by job and instance."""


class Prometheus:
    """A Prometheus that runs, as one asks it."""

    def __init__(self, server: OwnServer) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def now(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives at this moment."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def since(self, begun: float, expression: str) -> list[dict[str, Any]]:
        """What an expression has given, second by second, since then."""
        times = {"start": str(begun), "end": str(time.time()), "step": "1"}
        found: list[dict[str, Any]] = self.ask("query_range", query=expression, **times)["result"]
        return found

    def forget(self, job: str) -> None:
        """Have discovery find no target of this job any more."""
        (self.server.directory / f"{job}.json").write_text("[]")


@contextmanager
def own_prometheus(targets: Targets, rules: dict[str, Any], alertmanager: int | None = None) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes, and evaluates its rules, every second."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": job,
                "file_sd_configs": [{"files": [f"{job}.json"], "refresh_interval": "1s"}],
            }
            for job in targets
        ],
    }
    discovered = {
        f"{job}.json": json.dumps(
            [
                {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": instance}}
                for instance, port in instances.items()
            ]
        )
        for job, instances in targets.items()
    }
    if alertmanager is not None:
        told = {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}
        configuration["alerting"] = {"alertmanagers": [told]}
    files = {"prometheus.yaml": as_yaml(configuration), "rules.yaml": as_yaml(rules), **discovered}
    prometheus = program("prometheus", "Prometheus")

    def command(port: int) -> list[str]:
        return [
            prometheus,
            "--config.file=prometheus.yaml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--rules.alert.resend-delay=1s",
        ]

    with own_server(command, "/-/ready", files) as server:
        yield Prometheus(server)


@contextmanager
def own_alertmanager(configuration: dict[str, Any]) -> Iterator[OwnServer]:
    """Run an Alertmanager."""
    alertmanager = program("prometheus-alertmanager", "Alertmanager")

    def command(port: int) -> list[str]:
        return [
            alertmanager,
            "--config.file=alertmanager.yaml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]

    with own_server(command, "/-/ready", {"alertmanager.yaml": as_yaml(configuration)}) as server:
        yield server


class Webhook:
    """Whom Alertmanager tells: keeps each message, by the path it came to and when."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str, dict[str, Any]]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                webhook.told.append((time.monotonic(), self.path, message))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def alerts(self, path: str, status: str) -> set[str]:
        """The names of the alerts that were told of at this path, with this status."""
        return {
            alert["labels"]["alertname"]
            for _, whose, message in list(self.told)
            for alert in message["alerts"]
            if whose == path and alert["status"] == status
        }


@contextmanager
def own_webhook() -> Iterator[Webhook]:
    """Run a webhook."""
    webhook = Webhook()
    thread = threading.Thread(target=webhook.server.serve_forever)
    thread.start()
    try:
        yield webhook
    finally:
        webhook.server.shutdown()
        webhook.server.server_close()
        thread.join()


def comes_true(what: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Wait until something is so; return for how long that took."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, "it did not come true in time"
        time.sleep(0.05)
    return time.monotonic() - begun
