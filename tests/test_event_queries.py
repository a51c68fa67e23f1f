"""The queries of docs/events.md, held against what is really emitted."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from otel_health import Checker
from tests.doubles import Switch
from tests.otlp_receiver import receiving
from tests.servers import program

PAGE = (Path(__file__).parent.parent / "docs" / "events.md").read_text()


def blocks(language: str) -> list[str]:
    """The blocks of the page that are in this language."""
    return re.findall(f"```{language}\n(.*?)```", PAGE, re.DOTALL)


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""

    def value(each: KeyValue) -> Any:
        return getattr(each.value, str(each.value.WhichOneof("value")))

    return {each.key: value(each) for each in attributes}


async def test_the_names_that_loki_is_asked_for_arrive_over_otlp() -> None:
    """Each label of each query is an attribute that an exporter has sent, with the value that is looked for."""
    switch = Switch()
    with receiving() as receiver:
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{receiver.url}/v1/logs")))
        tracers = TracerProvider(shutdown_on_exit=False)
        checker = Checker(ttl=1e-9, logger_provider=provider, tracer_provider=tracers)
        checker.add("postgres", switch)
        for error in (None, ConnectionRefusedError("refused"), None):
            switch.error = error
            await checker.run()
        provider.force_flush()
        provider.shutdown()

        scopes = [scope for each in receiver.logs for scope in each.resource_logs[0].scope_logs]
    records = [record for scope in scopes for record in scope.log_records]
    sent: dict[str, set[object]] = {"scope_name": {scope.scope.name for scope in scopes}}
    for record in records:
        for name, value in plain(record.attributes).items():
            sent.setdefault(name.replace(".", "_"), set()).add(value)

    assert {record.event_name for record in records} == {"otel_health.transition"}
    assert [record.severity_text for record in records] == ["INFO", "ERROR", "INFO"]
    assert [bool(record.trace_id and record.span_id) for record in records] == [False, True, False]
    for query in blocks("logql"):
        assert set(re.findall("otel_health_[a-z_]+", query)) <= sent.keys(), query
        for name, value in re.findall('([a-z_]+)="([a-z_]+)"', query.replace('{service_name="orders"}', "")):
            assert value in sent[name], query
    assert len(blocks("logql")) == 5


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_the_commands_find_what_they_look_for(command: str, log: Path) -> None:
    """On the log that the page's own program writes."""
    program("jq", "jq")
    found = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=log.parent, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
    expected = {
        'select(."otel.event.name"': "ERROR\tpostgres: pending -> fail (ConnectionRefusedError: refused)\n",
        "map(": "queue: pending -> warn (degraded: 12,042 messages wait)\n",
        "uniq": "1 postgres\tConnectionRefusedError\n",
        "outage_seconds": "postgres\t0.0",
        "grep": '"message": "postgres: pending -> fail',
    }
    (wanted,) = (text for mark, text in expected.items() if mark in command)
    assert wanted in found.stdout
    assert len(found.stdout.splitlines()) == (
        3 if "@tsv' orders.log\n" in f"{command}\n" and ".message" in command else 1
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's program for JSON lines writes."""
    path = tmp_path_factory.mktemp("events") / "orders.log"
    (source,) = (block for block in blocks("python") if "json.dumps" in block)
    with path.open("w") as output:
        subprocess.run([sys.executable, "-W", "error", "-c", source], stdout=output, check=True, timeout=60)
    return path
