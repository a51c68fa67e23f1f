"""A real browser, and a service that it looks at."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from playwright.sync_api import Browser, sync_playwright
from starlette.applications import Starlette

from otel_health import Checker
from tests.servers import program

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
"""What keeps a browser that root starts from refusing to, and from talking to its makers."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium without a window; skip or fail the test where it is missing."""
    path = program("chromium", "Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


class Served:
    """A Checker that is open in a thread of its own, with its routes on a port of loopback.

    Everybody sees everything below `/full`, names below `/names`, and the verdict below `/status`.
    """

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        routes = [
            *checker.routes("/full", details="full"),
            *checker.routes("/names", details="names"),
            *checker.routes("/status", details="status"),
        ]
        app = Starlette(routes=routes, lifespan=checker.lifespan)
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=3)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self.url = ""

    def start(self) -> None:
        """Return once it listens."""
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the service did not start"
            self._thread.join(0.01)
        self.url = "http://127.0.0.1:{1}".format(*self._server.servers[0].sockets[0].getsockname())

    def stop(self) -> None:
        """Return once it has ended."""
        self._server.should_exit = True
        self._thread.join(10)


@contextmanager
def served(checker: Checker) -> Iterator[Served]:
    """Serve a Checker for as long as the test lasts."""
    service = Served(checker)
    service.start()
    try:
        yield service
    finally:
        service.stop()
