"""What an operator may say, and what becomes of what makes no sense."""

import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

from otel_health_instrumentation import HealthInstrumentor, environment_variables
from otel_health_instrumentation.configuration import PREFIX, READERS, Configuration, configured
from tests.services import ROOT

PAGE = (ROOT / "docs" / "zero_code.md").read_text()


def test_every_option_is_read_and_has_its_variable() -> None:
    """One list: the fields of the configuration, what reads them, and the environment."""
    names = {field.name for field in fields(Configuration)}
    variables = {name for name in vars(environment_variables) if name.startswith(PREFIX)}

    assert set(READERS) == names
    assert variables == {PREFIX + name.upper() for name in names}
    assert all(getattr(environment_variables, variable) == variable for variable in variables)


def test_every_variable_is_documented() -> None:
    """In one table, with nothing in it that there is not."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `OTEL_HEALTH_")]

    assert set(re.findall(r"OTEL_HEALTH_\w+", " ".join(rows))) == {PREFIX + name.upper() for name in READERS}


def test_the_environment_is_read() -> None:
    """As text; what is empty was not said."""
    environment = {
        "OTEL_HEALTH_TIMEOUT": " 1.5 ",
        "OTEL_HEALTH_FAILURE_THRESHOLD": "3",
        "OTEL_HEALTH_WORKERS": "True",
        "OTEL_HEALTH_CRITICAL": "redis-*, postgres-orders ,",
        "OTEL_HEALTH_METRICS": "none",
        "OTEL_HEALTH_DETAILS": "",
    }

    assert configured({}, environment) == Configuration(
        timeout=1.5, failure_threshold=3, workers=True, critical=["redis-*", "postgres-orders"], metrics="none"
    )


def test_arguments_come_before_the_environment() -> None:
    """Typed as a configuration file has them, or as text."""
    said = configured({"timeout": 2, "critical": ["redis"], "tracebacks": True}, {"OTEL_HEALTH_TIMEOUT": "9"})

    assert said == Configuration(timeout=2.0, critical=["redis"], tracebacks=True)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_HEALTH_TIMEOUT", "soon"),
        ("OTEL_HEALTH_TIMEOUT", "-1"),
        ("OTEL_HEALTH_INTERVAL", "nan"),
        ("OTEL_HEALTH_ANSWER_WITHIN", "inf"),
        ("OTEL_HEALTH_ANSWER_WITHIN", "1e12"),
        ("OTEL_HEALTH_FAILURE_THRESHOLD", "0"),
        ("OTEL_HEALTH_SUCCESS_THRESHOLD", "1.5"),
        ("OTEL_HEALTH_TRACEBACKS", "maybe"),
        ("OTEL_HEALTH_TRACE", "sometimes"),
        ("OTEL_HEALTH_DETAILS", "everything"),
        ("OTEL_HEALTH_PREFIX", "health/"),
        ("OTEL_HEALTH_METRICS", "metrics"),
        ("OTEL_HEALTH_METRICS", "/metrics/{of:whom}"),
        ("OTEL_HEALTH_LIVENESS_PORT", "70000"),
        ("OTEL_HEALTH_CLIENTS", "redis,oracle"),
    ],
)
def test_what_makes_no_sense_is_named_once_and_left_out(
    variable: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line with the variable, its value and the way out; the application lives with the default."""
    with caplog.at_level(logging.WARNING, "otel_health"):
        said = configured({}, {variable: value})

    assert said == Configuration()
    (line,) = caplog.messages
    assert line.startswith(f"health: {variable}={value!r} must ")
    assert line.endswith("; the default is used")


def test_clients_that_nobody_knows_are_told_which_there_are(caplog: pytest.LogCaptureFixture) -> None:
    """All are watched then; none need be."""
    assert configured({"clients": "oracle"}, {}) == Configuration()
    assert configured({"clients": "none"}, {}) == Configuration(clients=["none"])

    (line,) = caplog.messages
    assert line.startswith("health: clients='oracle' must be none, or of aio-pika, ")
    assert "sqlalchemy" in line


def test_a_token_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not even one that is too short to be one."""
    assert configured({}, {"OTEL_HEALTH_TOKEN": "hunter2"}) == Configuration()

    assert "OTEL_HEALTH_TOKEN" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_unknown_option_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """With those that there are."""
    assert configured({"timeuot": 3}, {}) == Configuration()

    assert "there is no option 'timeuot'; there are timeout, interval" in caplog.text


def test_a_slip_in_the_name_of_a_variable_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """With the one that was meant; a variable that is like none of ours may be anybody's."""
    said = configured({}, {"OTEL_HEALTH_TIMOUT": "1", "OTEL_HEALTH_REQUIRE_SERVICES": "1", "OTEL_SERVICE_NAME": "a"})

    assert said == Configuration()
    assert caplog.messages == ["health: there is no OTEL_HEALTH_TIMOUT; did you mean OTEL_HEALTH_TIMEOUT?"]


def test_the_documented_configuration_file_is_read(tmp_path: Path) -> None:
    """Typed, by OpenTelemetry's own reader of `OTEL_CONFIG_FILE`, to which it is a whole file."""
    reader = pytest.importorskip("opentelemetry.configuration")
    conversion = pytest.importorskip("opentelemetry.configuration.instrumentation")
    (documented,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "otel.yaml"
    file.write_text(documented)
    instrumentor = HealthInstrumentor()
    try:
        conversion.configure_instrumentation(reader.load_config_file(str(file)).instrumentation_development)
        checker = instrumentor.checker
        assert checker is not None
        assert checker.add("database", lambda: True).timeout == 1.0
    finally:
        instrumentor.uninstrument()
