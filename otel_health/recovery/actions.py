"""Recovery actions that many services need."""

from otel_health.ladder import Action, Ladder


def ladder(*actions: Action) -> Ladder:
    """Return recovery actions of which each is taken when the one before it did not help.

    A component has three attempts in ten minutes, so there are at most three steps; the last one is repeated.

    Raises:
        ValueError: There are none, or more than three.

    Example:
        >>> checker.add("postgres", ping, recover=ladder(reset_pool(pool), restart(supervisor, "consumer")))
    """
    return Ladder(actions)
