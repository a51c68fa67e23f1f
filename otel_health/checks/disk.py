"""The disk: free space and inodes."""

import os
from pathlib import Path

from otel_health.check import CheckFunc, CheckReturn, Degraded, Failed, observed, require_shares


def usage(path: str | Path, *, warn: float = 0.85, fail: float = 0.95) -> CheckFunc:
    """Return a check that looks how full the file system of a path is, in space and in inodes.

    It counts as `df` does: what only root may use is no free space. It proves nothing about writing: a file system
    that was remounted read-only has space. One that hangs (NFS) holds one thread, and the check is `hung`.

    Cost: one system call, in a thread; every 30 to 60 s is fine. Register it with `local=True` for a disk of the
    machine's own; on `readyz` where the service cannot do without. It observes `space_used` and `inodes_used`, as
    shares.

    Args:
        path: Any path on the file system.
        warn: From this share it warns.
        fail: From this share it fails.

    Raises:
        ValueError: The limits are no shares, or out of order.

    Example:
        >>> checker.add("disk", disk.usage("/var/lib/orders"), local=True, interval=30)
    """
    limits = observed({"warn": warn, "fail": fail})
    require_shares("disk", warn=warn, fail=fail)
    if not limits["warn"] < limits["fail"]:
        raise ValueError(f"disk: warn={warn!r} would only be reached after fail={fail!r}; swap them")
    where = Path(path)

    def check() -> CheckReturn:
        found = os.statvfs(where)
        shares = {
            "space_used": _used(found.f_blocks, found.f_bfree, found.f_bavail),
            "inodes_used": _used(found.f_files, found.f_ffree, found.f_favail),
        }
        worst = max(shares, key=lambda name: shares[name])
        for limit, wording in (("fail", Failed), ("warn", Degraded)):
            if shares[worst] >= limits[limit]:
                raise wording(f"{worst} is {shares[worst]:.3g}; {limit} is at {limits[limit]:g}", **shares)
        return shares

    return check


def _used(total: int, free: int, available: int) -> float:
    """The share that is used of what an unprivileged process could ever use; 0 where nothing is counted (btrfs)."""
    used = total - free
    return used / (used + available) if used + available else 0.0
