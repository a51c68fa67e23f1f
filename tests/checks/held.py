"""What this process holds, and what servers hold of it."""

import os
import threading
from pathlib import Path


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def foreign_threads() -> set[threading.Thread]:
    """The threads that live and are neither a Checker's, whose idle ones end by themselves, nor this test's own."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(("otel_health", "asyncio"))}


def connections(port: int) -> int:
    """How many connections the server at this port holds, as the kernel sees it: established, or half closed."""
    held = 0
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            held += local.endswith(f":{port:04X}") and state in {"01", "08"}
    return held
