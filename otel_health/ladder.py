"""What is done about a component that is confirmed to have failed: one action, or a ladder of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

Action = Callable[[], object]
"""A callable without arguments, sync or async, that tries to mend something.

Raising or returning False says that it could not; whatever else it returns, the next run of the check tells.
"""

MAX_ATTEMPTS: Final = 3
"""Attempts at the recovery of one component within `WINDOW` seconds."""

WINDOW: Final = 600.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """Recovery actions of which each is taken where those before it, since the component was last up, did not help.

    Raises:
        ValueError: There are no steps, or more than there will be attempts.
    """

    steps: tuple[Action, ...]

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 1 <= len(self.steps) <= MAX_ATTEMPTS:
            raise ValueError(
                f"a ladder of {len(self.steps)} steps: give it 1 to {MAX_ATTEMPTS}, for a component has "
                f"{MAX_ATTEMPTS} attempts in {WINDOW / 60:g} minutes"
            )


def steps_of(recover: Action | Ladder | None) -> tuple[Action, ...]:
    """The actions of a check, in the order in which they are taken."""
    if recover is None:
        return ()
    return recover.steps if isinstance(recover, Ladder) else (recover,)


def required_failing(action: Action) -> float:
    """For how many seconds a component must have failed before the action is taken: its own `failing_for`, or none."""
    seconds: float = getattr(action, "failing_for", 0.0)
    return seconds


def title_of(action: Action) -> str:
    """What the operator is told that an action is: the name of the function that it is, or was made by."""
    while isinstance(action, partial):
        action = action.func
    name: str = getattr(action, "__qualname__", type(action).__qualname__)
    return name.split(".<locals>")[0]
