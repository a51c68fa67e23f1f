"""What an instance finds of the dependencies that it shares with its peers, and for how long that is true."""

from collections.abc import Callable, Mapping
from typing import Final

from otel_health import Checker
from otel_health.report import Status

MAX_SHARED: Final = 7
"""Dependencies: as many as fit, with any names, into a value of Consul's metadata."""


class Findings:
    """The last finding of each dependency that peers are told of.

    Args:
        checker: Its checks are named as the dependencies are, and say for how long a finding is believed.
        changed: Called when there is something new to tell.
    """

    def __init__(self, checker: Checker, changed: Callable[[], object]) -> None:
        self._checker = checker
        self._changed = changed
        self._found: dict[str, tuple[Status, float] | None] = {}

    def share(self, dependency: str) -> None:
        """Tell peers, from now on, what is found of a dependency.

        Raises:
            ValueError: There are too many.
        """
        if len({*self._found, dependency}) > MAX_SHARED:
            raise ValueError(f"fail_open: {dependency!r} is one dependency too many; at most {MAX_SHARED} are shared")
        self._found[dependency] = None

    def require_checks(self) -> None:
        """Refuse a dependency that no check is named after.

        Raises:
            ValueError: There is one.
        """
        for dependency in self._found:
            if dependency not in self._checker:
                raise ValueError(
                    f"fail_open watches {dependency!r}, and no check has that name; add it under the same name"
                )

    def found(self, dependency: str, status: Status) -> None:
        """Take in what a run of the check has found."""
        before = self._found[dependency]
        self._found[dependency] = status, self._checker.now()
        if before is None or before[0] is not status:
            self._changed()

    def current(self) -> Mapping[str, Status]:
        """What may be told: a finding is out of date when the result of its check would be."""
        now = self._checker.now()
        return {
            dependency: found[0]
            for dependency, found in self._found.items()
            if found is not None
            and dependency in self._checker
            and now - found[1] < self._checker.get(dependency).fresh_for
        }
