"""Processes by number and start, so that one whose number was given to another is not mistaken for it."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"(\d+)-(\d+)")


class Process(NamedTuple):
    """One process of this machine."""

    pid: int
    started: int
    """Clock ticks since the machine was started; 0 where the system does not tell."""

    def __str__(self) -> str:
        return f"{self.pid}-{self.started}"

    @property
    def lives(self) -> bool:
        """Whether it still exists."""
        if Path("/proc/self/stat").exists():
            return process(self.pid) == self
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def process(pid: int) -> Process:
    """Return the process of this number; one that is a corpse, or none, has no start."""
    with suppress(OSError):
        # The name, in brackets, may hold spaces and brackets.
        state, *others = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if state not in "ZX":
            return Process(pid, int(others[18]))
    return Process(pid, 0)


def named(name: str) -> Process | None:
    """Return the process that a file is named after, if it is."""
    match = _NAME.fullmatch(name)
    return None if match is None else Process(int(match[1]), int(match[2]))
