"""The pool of daemon threads, by itself."""

import threading

from otel_health.threads import Threads
from tests.conftest import library_threads


def test_a_thread_that_is_busy_when_its_pool_is_closed_ends_with_its_job() -> None:
    """It does not wait for another that may never come; one that comes gets a thread of its own."""
    before = set(library_threads())
    pool, began, let_go, done = Threads(1, 1), threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        let_go.wait()

    pool.submit(hold)
    assert began.wait(5)
    (busy,) = set(library_threads()) - before
    pool.close()
    let_go.set()
    busy.join(5)

    assert not busy.is_alive()
    pool.submit(done.set)
    assert done.wait(5)
    pool.close()


def test_a_finaliser_may_submit_a_job_while_another_is_submitted() -> None:
    """Making a thread may collect garbage, and what is collected may have something to tell."""
    pool, told = Threads(1, 1), threading.Event()

    def collected_within() -> None:
        with pool._lock:  # noqa: SLF001 - as it is held while a thread is made.
            pool.submit(told.set)

    threading.Thread(target=collected_within, daemon=True).start()

    assert told.wait(5)
