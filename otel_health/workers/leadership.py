"""Who runs the shared checks: whoever holds the lock, which the kernel takes from a process that ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Leadership:
    """A lock that one process of a group holds.

    Args:
        path: The lock's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process leads."""
        return self._held is not None

    def seek(self) -> bool:
        """Take the lock if nobody has it; True if this process has just become the leader."""
        if self._held is not None:
            return False
        try:
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # The next attempt may find the directory again.
            return False
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody who left may have removed the file since it was opened: such a lock keeps nobody out.
            if os.fstat(opened).st_ino == os.stat(self._path).st_ino:
                self._held = opened
                return True
        except OSError:
            pass
        os.close(opened)
        return False

    def give_up(self) -> None:
        """Let another lead. In a forked child this leaves the parent its lock."""
        if self._held is not None:
            with suppress(OSError):
                os.close(self._held)
            self._held = None
