"""Fixtures that every test may use."""

import asyncio
import faulthandler
import gc
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.virtual import VirtualLoop

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process of theirs with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("tests")

# Seconds. A test's own timeout is an exception where the test happens to be: what swallows it, waits for a thread in
# its clean-up or hangs outside of Python would hold up everybody.
HANGS_AFTER = 330
STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real standard error, which is captured while a test runs."""
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process of a test that its timeout does not end, and say where each of its threads is."""
    watch(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Go on watching over the clean-up of a test that failed: pytest cancels it, for debuggers."""
    watch(node)


def watch(node: pytest.Item | pytest.Collector) -> None:
    """End this process unless somebody says otherwise in time."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True, file=node.config.stash[STDERR])


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run async tests on asyncio: in real time, or, where marked so, in virtual time."""
    if request.node.get_closest_marker("virtual_time"):
        return "asyncio", {"loop_factory": VirtualLoop}
    return "asyncio", {"loop_factory": asyncio.new_event_loop}


@pytest.fixture(scope="module", autouse=True)
def _small_garbage() -> None:
    """Have the collection after each test look at nothing that was there before the file: that is 0.2 s, else."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves unfinished coroutines to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture
def threads() -> Callable[[], int]:
    """How many threads the library has started in this test that still live."""
    before = set(library_threads())
    return lambda: len(set(library_threads()) - before)


def library_threads() -> list[threading.Thread]:
    """The threads that the library has started, in whatever test, and that still live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("otel_health")]
