"""Environment variables are set."""

from typing import Any

import pytest

from otel_health import Status
from otel_health.checks import environment
from tests.checks.doors import result


async def test_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not empty."""
    monkeypatch.setenv("ORDERS_KEY", "s3cr3t")

    assert (await result(environment.complete({"ORDERS_KEY", "PATH"}))).status is Status.PASS


async def test_variables_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named; no value is."""
    monkeypatch.setenv("ORDERS_KEY", "s3cr3t")
    monkeypatch.setenv("ORDERS_EMPTY", "")
    monkeypatch.delenv("ORDERS_URL", raising=False)

    found = await result(environment.complete({"ORDERS_KEY", "ORDERS_EMPTY", "ORDERS_URL"}))

    assert (found.status, found.message) == (Status.FAIL, "not set: ORDERS_EMPTY, ORDERS_URL")


@pytest.mark.parametrize("names", [(), "KEY", ("",), ("KEY=s3cr3t",), ("KEY\n",), (7,)])
def test_what_is_refused(names: Any) -> None:
    """At registration, and without repeating what may be a value."""
    with pytest.raises(ValueError, match=r"^environment: ") as refused:
        environment.complete(names)

    assert "s3cr3t" not in str(refused.value)
