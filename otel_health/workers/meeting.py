"""Where siblings meet: a private directory that each of them finds without being told."""

import hashlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_health.workers.processes import Process, named, process

SLATE: Final = ".slate"
SOCKET: Final = ".socket"
LOCK: Final = "leader"

MAX_SOCKET_PATH: Final = 103
"""Bytes of a Unix socket's path, on the system that takes the fewest."""

ATTEMPTS: Final = 10
"""How often a directory is made anew that somebody who left has just removed."""


def meeting_place(group: str | None, service: str | None) -> Path:
    """Return the directory of this process's siblings, which need not exist yet.

    Siblings have the same parent, working directory, command line and service; or the same group, where one is given.
    """
    with suppress(OSError):
        service = f"{service} {os.readlink('/proc/self/ns/pid')}"
    family = (str(process(os.getppid())), os.getcwd(), *sys.argv) if group is None else ("group", group)
    key = hashlib.sha256(repr((family, service)).encode("utf-8", "replace")).hexdigest()[:16]
    return _runtime_directory() / f"otel_health-{os.geteuid()}" / key


def _runtime_directory() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())


def file_of(place: Path, whose: Process, kind: str) -> Path:
    """The file of this kind that belongs to a process."""
    return place / f"{whose}{kind}"


def enter(place: Path, own: Process, size: int) -> int:
    """Make the file of this process, of a size that the disk has room for, and return it opened.

    Raises:
        OSError: It cannot be made there, or others might read and change it.
    """
    if len(os.fsencode(file_of(place, own, SOCKET))) > MAX_SOCKET_PATH:
        raise OSError(
            f"Workers: {place} is too long a path for a Unix socket; set XDG_RUNTIME_DIR, or TMPDIR, to a shorter one"
        )
    _tidy(place.parent)
    path = file_of(place, own, SLATE)
    for attempt in range(ATTEMPTS):
        for directory in (place.parent, place):
            with suppress(FileExistsError):
                directory.mkdir(0o700, parents=True)
            _require_private(directory)
        try:
            path.unlink(missing_ok=True)
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        try:
            _reserve(opened, size)
        except OSError:
            os.close(opened)
            path.unlink(missing_ok=True)
            raise
        return opened
    raise AssertionError("unreachable")


def _reserve(opened: int, size: int) -> None:
    """Have room on the disk: to write where there is none kills a process that does it by shared memory."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(opened, 0, size)
    else:
        os.write(opened, bytes(size))


def _require_private(directory: Path) -> None:
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"Workers: {directory} must be a directory that belongs to user {os.geteuid()} and that nobody else may "
            "enter; remove it, or set XDG_RUNTIME_DIR to a directory of this user's own"
        )


def present(place: Path) -> list[Process]:
    """Return who is there and lives; what the dead have left is removed."""
    found = []
    with suppress(OSError):
        for entry in os.listdir(place):
            whose = named(entry.removesuffix(SLATE)) if entry.endswith(SLATE) else None
            if whose is not None:
                if whose.lives:
                    found.append(whose)
                else:
                    leave(place, whose)
    return found


def leave(place: Path, whose: Process) -> None:
    """Remove the files of a process, and the directory with the last of them."""
    for kind in (SOCKET, SLATE):
        with suppress(OSError):
            file_of(place, whose, kind).unlink()
    with suppress(OSError):
        if not any(entry.endswith(SLATE) for entry in os.listdir(place)):
            (place / LOCK).unlink(missing_ok=True)
            place.rmdir()


def _tidy(directory: Path) -> None:
    """Remove what groups have left of whom nobody lives."""
    with suppress(OSError):
        for place in directory.iterdir():
            present(place)
