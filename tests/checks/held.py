"""What this process holds, and what servers hold of it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def foreign_threads() -> set[threading.Thread]:
    """The threads that live and are neither a Checker's, whose idle ones end by themselves, nor this test's own."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(("otel_health", "asyncio"))}


def connections(port: int) -> int:
    """How many connections the server at this port holds, as the kernel sees it: established, or half closed."""
    return sum(socket[3] in {"01", "08"} for socket in _sockets(port))


def not_taken_in(port: int) -> int:
    """How many connections the kernel has accepted for the server at this port, and the server has not."""
    return sum(int(socket[4].partition(":")[2], 16) for socket in _sockets(port) if socket[3] == "0A")


def _sockets(port: int) -> Iterator[list[str]]:
    """What the kernel says of each socket of this port: its columns, of which the fourth is the state."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(f":{port:04X}"):
                yield columns
