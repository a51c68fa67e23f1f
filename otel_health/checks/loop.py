"""The event loop: how many tasks it carries."""

import asyncio

from otel_health.check import CheckFunc
from otel_health.compose import threshold


def tasks(*, warn: float | None = None, fail: float | None = None) -> CheckFunc:
    """Return a check that holds the number of the event loop's unfinished tasks against limits.

    It sees requests that pile up and tasks that are started and never end; not how long they have been there.

    Cost: about 3 ms of the loop for each 10,000 tasks; every 10 to 30 s is fine. Register it with `local=True`, not
    critical. It observes `tasks`, the check's own included.

    Args:
        warn: From so many it warns.
        fail: From so many it fails.

    Raises:
        ValueError: There is no limit to hold it against, or the limits are out of order.

    Example:
        >>> checker.add("tasks", loop.tasks(warn=5_000), local=True, critical=False)
    """

    async def unfinished() -> float:
        return len(asyncio.all_tasks())

    return threshold(unfinished, warn=warn, fail=fail, observation="tasks")
