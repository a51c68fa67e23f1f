"""A name resolves, and one that hangs holds up nobody."""

from typing import Any

import pytest

from otel_health.checks import dns
from tests.checks.island import on_island


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the checks say of the names of the island."""
    return on_island("tests.checks.names")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one.test", ["pass", None, None, {"addresses": 1}]),
        ("two.test", ["pass", None, None, {"addresses": 2}]),
        ("localhost", ["pass", None, None, {"addresses": 2}]),
        ("moved.test", ["fail", "failed", "1 of 1 addresses are not expected", {"addresses": 1}]),
        ("none.test", ["fail", "gaierror", "[Errno -5] No address associated with hostname", {}]),
        ("unknown.test", ["fail", "gaierror", "[Errno -2] Name or service not known", {}]),
        ("hang.test", ["fail", "timeout", "did not end within 1 s", {}]),
    ],
)
def test_what_a_name_server_may_answer(names: dict[str, Any], name: str, said: list[object]) -> None:
    """The system's own errors say what is wrong."""
    assert names[name] == said


def test_names_that_hang_hold_up_nobody(names: dict[str, Any]) -> None:
    """Each of thirty checks holds one thread, none of the loop's, and the others stay right."""
    hanging = names["hanging"]

    assert {hanging["said"][name] == ["None"] for name in ("well", "sync", "loopback")} == {True}
    assert set(hanging["said"]["dns"]) == {"hung", "timeout"}
    for name in ("tcp", "http"):
        # Which of the two deadlines, the resolution's or the check's, is seen first is a matter of milliseconds.
        assert "TimeoutError" in hanging["said"][name]
        assert set(hanging["said"][name]) <= {"TimeoutError", "timeout"}
    assert hanging["threads"] <= 40
    assert hanging["executor"] is False
    assert hanging["late"] < 2.0


def test_names_resolve_again(names: dict[str, Any]) -> None:
    """Once the name server answers, so does the check."""
    assert names["tcp"] == "pass"


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("", {}, "1 to 253 characters"),
        (None, {}, "1 to 253 characters"),
        ("x" * 64 + ".test", {}, "no host name"),
        ("http://user:s3cr3t@shop.test/", {}, "no host name"),
        ("10.0.0.7", {}, "an address needs no resolution"),
        ("shop.test", {"expected": "10.0.0.7"}, "must be a set of addresses"),
        ("shop.test", {"expected": {"shop"}}, "must be a set of addresses"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], reason: str) -> None:
    """At registration, and without repeating what was no name."""
    with pytest.raises(ValueError, match=r"^dns: ") as refused:
        dns.resolves(name, **options)

    assert reason in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
