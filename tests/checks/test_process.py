"""The process's files, threads and memory against limits."""

import random
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from otel_health import CheckFunc, Status
from otel_health.checks.process import open_files, resident_memory, threads
from tests.checks.doors import result


@contextmanager
def file_limit(limit: int) -> Iterator[None]:
    """Allow the process so many open files for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_open_files_against_the_limit() -> None:
    """Each open file counts, the listing itself does not."""
    with file_limit(256), ExitStack() as files:
        before = (await result(open_files())).observations["files_used"]
        for _ in range(64):
            files.enter_context(socket.socket())
        found = await result(open_files(warn=before + 0.24))

    assert found.status is Status.WARN
    assert found.observations["files_used"] == pytest.approx(before + 0.25, abs=0.01)


async def test_threads_that_are_there() -> None:
    """Each thread counts."""
    let_go = threading.Event()
    before = (await result(threads(warn=10_000))).observations["threads"]
    more = [threading.Thread(target=let_go.wait) for _ in range(20)]
    for thread in more:
        thread.start()
    try:
        found = await result(threads(warn=before + 10, fail=10_000))
    finally:
        let_go.set()
        for thread in more:
            thread.join()

    assert found.status is Status.WARN
    assert found.observations["threads"] >= before + 15


async def test_resident_memory() -> None:
    """What is held is seen."""
    before = (await result(resident_memory(fail=1e15))).observations["resident_bytes"]
    ballast = random.randbytes(64 << 20)
    found = await result(resident_memory(fail=before + len(ballast) / 2))

    assert found.status is Status.FAIL
    assert found.observations["resident_bytes"] == pytest.approx(before + len(ballast), rel=0.2)


@pytest.mark.parametrize("make", [threads, resident_memory, open_files])
def test_what_is_refused(make: Callable[..., CheckFunc]) -> None:
    """At registration: no limit at all, or limits out of order."""
    with pytest.raises(ValueError, match="swap them"):
        make(warn=0.9, fail=0.5)
    with pytest.raises(ValueError, match="without a limit"):
        make(warn=None, fail=None)
