"""A container's memory and processor, in containers: version 1 and version 2 of control groups."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_health import CheckFunc
from otel_health.checks.cgroup import cpu_throttling, memory
from tests.checks.doors import result

KERNEL = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t cgroup2 none /sys/fs/cgroup
mount -t hostfs -o {directory} none /var/tmp
cd {here} && {python} -m tests.checks.container /sys/fs/cgroup
"""
"""What a kernel of the tests' own does instead of starting a system."""


def version_1() -> dict[str, Any]:
    """What the checks say in a group of version 1, here."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("no control groups of version 1 that could be made here")
    return told(subprocess.run([sys.executable, "-m", "tests.checks.container"], **CAPTURED))


def version_2() -> dict[str, Any]:
    """What the checks say in a group of version 2, under a kernel in user mode that sees this machine's files."""
    kernel = shutil.which("linux.uml")
    if kernel is None or os.geteuid() != 0:
        pytest.skip("no kernel in user mode (apt-get install user-mode-linux), or no root")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        init = Path(directory) / "init"
        init.write_text(KERNEL.format(directory=directory, here=Path.cwd(), python=sys.executable))
        init.chmod(0o755)
        options = ["mem=512M", "con=null", "con0=null,fd:1", "panic=1", "quiet", f"umid={Path(directory).name}"]
        root = ["rootfstype=hostfs", "rootflags=/", "ro", f"init={init}"]
        return told(subprocess.run([kernel, *root, *options], **CAPTURED))


CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL}


def told(ran: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """What was said inside."""
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return found


@pytest.mark.parametrize("inside", [version_1, version_2])
def test_in_a_container(inside: Callable[[], dict[str, Any]]) -> None:
    """Without a limit, with room, half full, nearly full, full of cache that can be dropped; throttled, and no more."""
    found = inside()

    assert found["no limit"] == ["pass", 0.0]
    assert found["room"][0] == "pass"
    assert found["half"] == ["pass", pytest.approx(0.5, abs=0.15)]
    assert found["nearly full"] == ["warn", pytest.approx(0.9, abs=0.04)]
    (status, share), with_cache = found["cache"]
    assert status == "pass"
    assert share < with_cache - 0.3
    assert found["first"] == {"periods_throttled": 0}
    assert found["throttled"] == ["warn", True]
    assert found["no quota"] == ["pass", 0.0]


@pytest.mark.parametrize("check", [memory(), cpu_throttling()], ids=["memory", "cpu_throttling"])
async def test_where_the_tests_run(check: CheckFunc) -> None:
    """Whatever there is, it is read."""
    found = await result(check)

    assert len(found.observations) == 1, found.message


@pytest.mark.parametrize("make", [memory, cpu_throttling])
def test_what_is_refused(make: Callable[..., CheckFunc]) -> None:
    """At registration."""
    with pytest.raises(ValueError, match="swap them"):
        make(warn=0.9, fail=0.5)
