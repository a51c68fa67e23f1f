"""The process: its open files, its threads, its memory."""

import os
import resource
from pathlib import Path

from otel_health.check import CheckFunc, require_shares
from otel_health.compose import threshold


def open_files(*, warn: float | None = 0.8, fail: float | None = 0.95) -> CheckFunc:
    """Return a check that holds the number of open files and sockets against the process's limit.

    It sees a leak of descriptors before `accept` fails with EMFILE; not who leaks. Where there is no limit it passes.

    Linux only. Cost: one directory listed, in a thread; every 10 to 30 s is fine. Register it with `local=True`, on
    `readyz`. It observes `files_used`, the share of the limit.

    Args:
        warn: From this share of the limit it warns.
        fail: From this share it fails.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are no shares, or out of order.

    Example:
        >>> checker.add("open-files", process.open_files(), local=True)
    """
    require_shares("process.open_files", warn=warn, fail=fail)

    def used() -> float:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The listing itself is an open file.
        return (len(os.listdir("/proc/self/fd")) - 1) / limit if limit != resource.RLIM_INFINITY else 0.0

    return threshold(used, warn=warn, fail=fail, observation="files_used")


def threads(*, warn: float | None = None, fail: float | None = None) -> CheckFunc:
    """Return a check that holds the number of the process's threads against limits.

    It counts every thread that the kernel knows, also those that libraries start without Python's knowledge.

    Linux only. Cost: one directory listed, in a thread; every 10 to 30 s is fine. Register it with `local=True`,
    not critical. It observes `threads`.

    Args:
        warn: From so many it warns.
        fail: From so many it fails.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are out of order.

    Example:
        >>> checker.add("threads", process.threads(warn=500), local=True, critical=False)
    """
    return threshold(lambda: len(os.listdir("/proc/self/task")), warn=warn, fail=fail, observation="threads")


def resident_memory(*, warn: float | None = None, fail: float | None = None) -> CheckFunc:
    """Return a check that holds the resident memory of the process against limits.

    It sees this process alone, with the pages that it shares; where a container has a limit, `memory` tells how
    close that is.

    Linux only. Cost: one small file read, in a thread; every 10 to 30 s is fine. Register it with `local=True`. On
    `livez` it restarts a process that leaks, so choose `fail` far above what is normal. It observes
    `resident_bytes`.

    Args:
        warn: From so many bytes it warns.
        fail: From so many bytes it fails.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are out of order.

    Example:
        >>> checker.add("resident-memory", process.resident_memory(warn=1.5e9), local=True, critical=False)
    """

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    return threshold(resident, warn=warn, fail=fail, observation="resident_bytes")
