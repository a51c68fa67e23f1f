"""How full a file system is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_health.checks import disk
from tests.checks.doors import result

SCRIPT = "mount -t tmpfs -o size=1000k,nr_inodes=100 none {where} && exec {python} -m tests.checks.fullness {where}"


def test_a_file_system_that_fills(tmp_path: Path) -> None:
    """Space and inodes are looked at, and the worse of them is the reason."""
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    script = SCRIPT.format(where=tmp_path, python=sys.executable)
    ran = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=60)

    found: dict[str, Any] = json.loads(ran.stdout)

    assert found["empty"][:2] == ["pass", ""]
    assert found["space"] == ["warn", "space_used", {"space_used": 0.9, "inodes_used": 0.02}]
    assert found["full"][:2] == ["fail", "space_used"]
    assert found["inodes"][:2] == ["warn", "inodes_used"]


async def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """The system says so."""
    found = await result(disk.usage(tmp_path / "nowhere"))

    assert found.refined_error_type == "FileNotFoundError"


@pytest.mark.parametrize(("warn", "fail"), [(0.9, 0.8), (0.9, 0.9), (float("nan"), 0.9), (True, 0.9)])
def test_what_is_refused(warn: float, fail: float) -> None:
    """At registration."""
    with pytest.raises(ValueError, match=r"swap them|not a finite number"):
        disk.usage("/", warn=warn, fail=fail)
