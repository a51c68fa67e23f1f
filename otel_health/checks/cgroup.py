"""The container: its memory against its limit, and how often it is kept from the processor (cgroups v1 and v2)."""

from pathlib import Path

from otel_health.check import CheckFunc, require_shares
from otel_health.compose import threshold

_UNLIMITED = 1 << 60
"""Version 1 writes no limit as the largest number of pages that there could be."""


def memory(*, warn: float | None = 0.85, fail: float | None = 0.95) -> CheckFunc:
    """Return a check that holds the memory of the process's control group against its limit.

    It sees what kubelet and the kernel see: everything charged to the container, without file cache that can be
    dropped, at whichever level of the hierarchy is closest to its limit; with all other processes in there. It does
    not see whether the process itself leaks, see `resident_memory`. Where there is no limit it passes.

    Linux only. Cost: four small files read, in a thread; every 10 s is fine. Register it with `local=True`, not
    critical: a replica that is full of memory is seldom helped by taking its share from the others. It observes
    `memory_used`, the share of the limit.

    Args:
        warn: From this share of the limit it warns.
        fail: From this share it fails.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are no shares, or out of order.

    Example:
        >>> checker.add("memory", cgroup.memory(), local=True, critical=False)
    """
    require_shares("cgroup.memory", warn=warn, fail=fail)

    def used() -> float:
        return max((_memory_used(level) for level in _levels("memory")), default=0.0)

    return threshold(used, warn=warn, fail=fail, observation="memory_used")


def cpu_throttling(*, warn: float | None = 0.25, fail: float | None = None) -> CheckFunc:
    """Return a check that looks how often the control group was kept from the processor since its last run.

    It sees a CPU limit that is too small before latency tells of it: the share of scheduling periods, between two
    runs, in which the container had used up its quota. The first run has nothing to compare with and passes; so does
    a container without quota.

    Linux only. Cost: a small file read, in a thread; every 10 to 30 s is fine. Register it with `local=True`, not
    critical. It observes `periods_throttled`.

    Args:
        warn: From this share of periods it warns.
        fail: From this share it fails; never, unless it is given.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are no shares, or out of order.

    Example:
        >>> checker.add("cpu", cgroup.cpu_throttling(), local=True, critical=False)
    """
    require_shares("cgroup.cpu_throttling", warn=warn, fail=fail)
    before: dict[Path, tuple[int, int]] = {}

    def throttled() -> float:
        shares = [0.0]
        for level in _levels("cpu"):
            counts = _numbers(level / "cpu.stat")
            periods, stopped = counts.get("nr_periods", 0), counts.get("nr_throttled", 0)
            earlier = before.get(level)
            before[level] = periods, stopped
            if earlier is not None and periods > earlier[0]:
                shares.append((stopped - earlier[1]) / (periods - earlier[0]))
        return max(shares)

    return threshold(throttled, warn=warn, fail=fail, observation="periods_throttled")


def _memory_used(level: Path) -> float:
    if (level / "memory.limit_in_bytes").exists():
        limit = (level / "memory.limit_in_bytes").read_text()
        usage, droppable = "memory.usage_in_bytes", "total_inactive_file"
    elif (level / "memory.max").exists():
        limit = (level / "memory.max").read_text()
        usage, droppable = "memory.current", "inactive_file"
    else:  # The root of version 2 has no limit, nor a file for it.
        return 0.0
    if limit.strip() == "max" or int(limit) >= _UNLIMITED:
        return 0.0
    used = int((level / usage).read_text()) - _numbers(level / "memory.stat").get(droppable, 0)
    return max(used, 0) / max(int(limit), 1)


def _numbers(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def _levels(controller: str) -> list[Path]:
    """The directories of the process's group of this controller and of those above it, as far as they are mounted."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    version_1 = controller in paths
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        _, _, _, root, point, *_ = mount.split(" ")
        kind, _, options = system.split(" ", 2)
        if kind == ("cgroup" if version_1 else "cgroup2") and (not version_1 or controller in options.split(",")):
            return _upwards(Path(point), root, paths.get(controller if version_1 else "", "/"))
    return []


def _upwards(point: Path, root: str, path: str) -> list[Path]:
    inside = Path(path)
    below = inside.relative_to(root) if inside.is_relative_to(root) else Path()
    # A container may be shown its own group as the root while the kernel still names it from the host's.
    group = point / below if (point / below).is_dir() else point
    return [group, *(level for level in group.parents if level.is_relative_to(point))]
