"""A process in a container of its own: `python -m tests.checks.container` prints what the checks say in there.

It makes control groups with limits, enters them, and leaves and removes them again; that takes root. With a mount
point as its argument it expects version 2 there, otherwise version 1 where it usually is.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_health.checks.cgroup import cpu_throttling, memory
from tests.checks.doors import result

LIMIT = 100 << 20


async def phases(memory_group: Path, cpu_group: Path, quota: tuple[str, str, str]) -> dict[str, object]:
    """What the checks say without limits, with room, nearly full, full of cache alone, throttled, and no more."""
    found: dict[str, object] = {}

    async def note(phase: str) -> None:
        said = await result(memory())
        found[phase] = [said.status, round(said.observations["memory_used"], 2)]

    await note("no limit")
    limit = memory_group / ("memory.max" if (memory_group / "memory.max").exists() else "memory.limit_in_bytes")
    limit.write_text(str(LIMIT))
    await note("room")
    ballast = bytearray(os.urandom(1 << 20)) * 50
    await note("half")
    held = memory_group / ("memory.current" if limit.name == "memory.max" else "memory.usage_in_bytes")
    ballast += bytes(int(LIMIT * 0.9) - int(held.read_text()))
    ballast[::4096] = b"x" * len(ballast[::4096])
    await note("nearly full")
    del ballast
    with cache(80 << 20):
        await note("cache")
        found["cache"] = [found["cache"], int(held.read_text()) / LIMIT]

    throttling = cpu_throttling()
    found["first"] = dict((await result(throttling)).observations)
    (cpu_group / quota[0]).write_text(quota[1])
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        pass
    said = await result(throttling)
    found["throttled"] = [said.status, said.observations["periods_throttled"] > 0.25]
    (cpu_group / quota[0]).write_text(quota[2])
    await result(throttling)
    said = await result(throttling)
    found["no quota"] = [said.status, said.observations["periods_throttled"]]
    return found


@contextmanager
def cache(size: int) -> Iterator[None]:
    """Have so much of the group be the kernel's cache of a file that is written."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
        yield


def inside(groups: list[Path]) -> None:
    """Enter the groups."""
    for group in groups:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))


def outside(groups: list[Path]) -> None:
    """Leave the groups and remove them."""
    for group in groups:
        if group.exists():
            (group.parent / "cgroup.procs").write_text(str(os.getpid()))
            group.rmdir()


def main() -> None:
    """Enter, look, leave."""
    name = f"otel_health-{os.getpid()}"
    if len(sys.argv) > 1:
        root = Path(sys.argv[1])
        (root / "cgroup.subtree_control").write_text("+memory +cpu")
        groups = [root / name]
        quota = ("cpu.max", "20000 100000", "max 100000")
    else:
        homes = Path("/sys/fs/cgroup")
        own = {
            kind: path
            for _, kind, path in (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
        }
        groups = [homes / kind / own[kind].lstrip("/") / name for kind in ("memory", "cpu")]
        quota = ("cpu.cfs_quota_us", "20000", "-1")
    try:
        inside(groups)
        found = asyncio.run(phases(groups[0], groups[-1], quota))
    finally:
        outside(groups)
    print("RESULT", json.dumps(found))


if __name__ == "__main__":
    main()
