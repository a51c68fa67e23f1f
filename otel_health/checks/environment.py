"""The environment: the variables that the service needs are set."""

import os

from otel_health.check import CheckFunc, Failed


def environment(*names: str) -> CheckFunc:
    """Return a check that environment variables are set and not empty.

    It says which are missing, never what one holds; a value may still be wrong.

    Cost: nothing. Register it with `local=True` and `probes={"startupz"}`: a process's environment does not change
    from outside, so once is enough.

    Args:
        names: The variables' names.

    Raises:
        ValueError: No name is given, or one is no name of a variable.

    Example:
        >>> checker.add("settings", environment("DATABASE_URL", "API_KEY"), local=True, probes={"startupz"})
    """
    if not names:
        raise ValueError("environment: give at least one name, as environment('DATABASE_URL')")
    for name in names:
        if not isinstance(name, str) or not name or "=" in name or not name.isprintable():
            raise ValueError("environment: every name must be that of a variable, such as 'DATABASE_URL', no value")

    async def check() -> None:
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise Failed(f"not set: {', '.join(missing)}")

    return check
