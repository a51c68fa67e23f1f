"""A file is there, readable, not empty, and fresh."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from otel_health import Status
from otel_health.checks import file
from tests.checks.doors import result


def aged(directory: Path, age: float, content: str = "s3cr3t") -> Path:
    """A file that was changed so many seconds ago."""
    path = directory / "it"
    path.write_text(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize(
    ("age", "options", "status"),
    [
        (10, {}, Status.PASS),
        (10, {"warn_age": 60, "fail_age": 600}, Status.PASS),
        (70, {"warn_age": 60, "fail_age": 600}, Status.WARN),
        (700, {"warn_age": 60, "fail_age": 600}, Status.FAIL),
        (700, {"fail_age": 600}, Status.FAIL),
        (-100, {"fail_age": 600}, Status.PASS),
    ],
)
async def test_how_old_a_file_is(tmp_path: Path, age: float, options: dict[str, Any], status: Status) -> None:
    """Its age is held against the limits; a clock that runs behind makes nothing old."""
    found = await result(file.fresh(aged(tmp_path, age), **options))

    assert found.status is status
    assert found.observations["age"] == pytest.approx(max(age, 0), abs=30)


async def test_a_secret_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    """Through two links, which are swapped when the secret changes."""
    old, new = tmp_path / "..1", tmp_path / "..2"
    for directory, age in ((old, 1000.0), (new, 1.0)):
        directory.mkdir()
        aged(directory, age)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "it").symlink_to("..data/it")
    check = file.fresh(tmp_path / "it", fail_age=600)

    before = await result(check)
    (tmp_path / "..data").unlink()
    (tmp_path / "..data").symlink_to("..2")
    after = await result(check)

    assert (before.status, after.status) == (Status.FAIL, Status.PASS)


async def test_what_is_no_file_to_read(tmp_path: Path) -> None:
    """Empty, missing, a directory."""
    empty = await result(file.fresh(aged(tmp_path, 0, content="")))
    missing = await result(file.fresh(tmp_path / "nowhere"))
    directory = await result(file.fresh(tmp_path))

    assert empty.message == "the file is empty"
    assert missing.refined_error_type == "FileNotFoundError"
    assert directory.refined_error_type == "IsADirectoryError"


@pytest.mark.parametrize("options", [{"warn_age": 9, "fail_age": 5}, {"warn_age": "9"}, {"fail_age": float("nan")}])
def test_what_is_refused(options: dict[str, Any]) -> None:
    """At registration."""
    with pytest.raises(ValueError, match=r"swap them|not a finite number"):
        file.fresh("/run/secrets/key", **options)
