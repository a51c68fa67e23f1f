"""The pictures of the documentation, taken anew: `python -m tests.screenshots`."""

import asyncio
import logging
import random
import threading
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser

from otel_health import Checker, CheckFunc, Degraded
from tests.browser import chromium, served
from tests.doubles import hanging
from tests.observability.pictures.drawing import draw

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
SECONDS: Final = 6.0
"""Until each component has a history to be seen."""

PICTURES: Final[dict[str, tuple[str, Literal["light", "dark"], int, int]]] = {
    "status_page.png": ("full", "light", 1120, 1010),
    "status_page_phone.png": ("full", "dark", 375, 760),
}


def status_page(browser: Browser) -> None:
    """Take the status page of a service that has seen better days."""
    with served(_service()) as service:
        threading.Event().wait(SECONDS)
        for name, (details, scheme, width, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(f"{service.url}/{details}/healthz")
            page.get_by_text("Live").wait_for()
            page.screenshot(path=IMAGES / name)


def _service() -> Checker:
    checker = Checker(
        timeout=0.15,
        interval=0.2,
        service_id="orders",
        version="1.4.2",
        logger=logging.Logger("quiet", logging.CRITICAL),
    )
    checker.add("postgres", _breaking())
    checker.add("search", hanging(), critical=False)
    checker.add("orders-queue", _waiting)
    checker.add("redis", _flapping(), failure_threshold=3)
    checker.add("object-store", _taking(0.06))
    checker.add("payments", _taking(0.01))
    return checker


def _breaking() -> CheckFunc:
    runs = 0

    async def check() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(random.uniform(0.001, 0.004))
        if runs > 12:
            raise ConnectionRefusedError("connection to 10.0.3.7, port 5432 was refused")

    return check


async def _waiting() -> None:
    await asyncio.sleep(random.uniform(0.0003, 0.002))
    raise Degraded("12,042 messages wait; 10,000 are normal", backlog=12_042, consumers=3)


def _flapping() -> CheckFunc:
    async def check() -> dict[str, float]:
        await asyncio.sleep(random.uniform(0.0002, 0.002))
        if random.random() < 0.15:
            raise TimeoutError("read timed out")
        return {"used": 0.42, "connections": 17}

    return check


def _taking(seconds: float) -> CheckFunc:
    async def check() -> None:
        await asyncio.sleep(random.uniform(0.1, 1.0) * seconds)

    return check


if __name__ == "__main__":
    with chromium() as browser:
        status_page(browser)
        draw(browser, IMAGES)
