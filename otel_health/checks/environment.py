"""The environment: the variables that the service needs are set."""

import os
from collections.abc import Collection

from otel_health.check import CheckFunc, Failed


def complete(names: Collection[str]) -> CheckFunc:
    """Return a check that environment variables are set and not empty.

    It says which are missing, never what one holds; a value may still be wrong.

    Cost: none; every 600 s is fine. Register it with `probes={"startupz"}`: a process's environment does not change
    from outside.

    Args:
        names: The variables' names.

    Raises:
        ValueError: No name is given, or one is no name of a variable.

    Example:
        >>> checker.add("settings", environment.complete({"DATABASE_URL"}), probes={"startupz"})
    """
    if isinstance(names, str) or not names:
        raise ValueError("environment: names must be a set of names, such as {'DATABASE_URL'}")
    for name in names:
        if not isinstance(name, str) or not name or "=" in name or not name.isprintable():
            raise ValueError("environment: every name must be that of a variable, such as 'DATABASE_URL', no value")

    wanted = sorted(names)

    async def check() -> None:
        missing = [name for name in wanted if not os.environ.get(name)]
        if missing:
            raise Failed(f"not set: {', '.join(missing)}")

    return check
