"""A file: it is there, readable and fresh."""

import os
import time
from pathlib import Path

from otel_health.check import CheckFunc, CheckReturn, Degraded, Failed, observed


def fresh(path: str | Path, *, warn_age: float | None = None, fail_age: float | None = None) -> CheckFunc:
    """Return a check that a file can be read, is not empty, and was changed not too long ago.

    For mounted secrets and certificates, and for what a cron job or a sidecar should renew. It opens the file and
    reads nothing, so no secret passes through it; what is in the file may still be nonsense.

    Cost: one file opened, in a thread; every 30 to 60 s is fine. Register it with `local=True` for a disk of the
    machine's own; on `startupz` for a secret that must be there, not critical for an age. It observes `age` in
    seconds.

    Args:
        path: The file; links are followed, as Kubernetes makes them for secrets.
        warn_age: Seconds since its last change from which it warns.
        fail_age: Seconds from which it fails.

    Raises:
        ValueError: The ages are no numbers, or out of order.

    Example:
        >>> checker.add("rates", file.fresh("/data/rates.json", warn_age=7200, fail_age=86400), local=True)
    """
    limits = observed({name: age for name, age in (("warn", warn_age), ("fail", fail_age)) if age is not None})
    if len(limits) == 2 and not limits["warn"] < limits["fail"]:
        raise ValueError(f"file: warn_age={warn_age!r} would only be reached after fail_age={fail_age!r}; swap them")
    where = Path(path)

    def check() -> CheckReturn:
        with where.open("rb") as opened:
            found = os.fstat(opened.fileno())
        age = max(time.time() - found.st_mtime, 0.0)
        if found.st_size == 0:
            raise Failed("the file is empty", age=age)
        for limit, wording in (("fail", Failed), ("warn", Degraded)):
            if limit in limits and age >= limits[limit]:
                raise wording(f"the file was changed {age:.0f} s ago; {limit} is at {limits[limit]:g} s", age=age)
        return {"age": age}

    return check
