"""The whole of it over a real PostgreSQL and a real Redis: killed, frozen, restarted, and asked by many at once."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from httpx2 import AsyncClient

from otel_health import Checker, Transition
from otel_health.prometheus import PrometheusExporter
from tests.doubles import eventually

INTERVAL = 0.3
TIMEOUT = 0.5
IN_TIME = INTERVAL * 1.1 + TIMEOUT + 1.0
"""Seconds in which every sink knows what has happened: an interval with its jitter, a timeout, and a tolerance."""


@dataclass
class Service:
    """A small service whose readiness is its checks', and everything that tells of them."""

    checker: Checker
    exporter: PrometheusExporter
    client: AsyncClient
    transitions: list[Transition] = field(default_factory=list)

    async def readyz(self) -> int:
        """Ask whether it is ready."""
        return (await self.client.get("/readyz")).status_code

    async def metrics(self) -> str:
        """Scrape it."""
        return (await self.client.get("/metrics")).text

    async def says(self, component: str, *, up: bool, log: pytest.LogCaptureFixture) -> None:
        """Wait until probe, gauge and log all say that the component is up or not; fail if one is late."""
        deadline = time.monotonic() + IN_TIME
        gauge = f'otel_health_check_up{{component="{component}"}} {1.0 if up else 0.0}\n'
        heard = len(told(log, component))
        while await self.readyz() != (200 if up else 503) or gauge not in await self.metrics():
            assert time.monotonic() < deadline, f"probe or gauge do not know within {IN_TIME} s"
            await asyncio.sleep(0.02)
        await eventually(lambda: len(told(log, component)) > 0, deadline - time.monotonic())
        assert heard <= len(told(log, component))


def told(log: pytest.LogCaptureFixture, component: str) -> list[tuple[str, int]]:
    """What was logged of a component, without the reasons: `("postgres: pass -> fail", logging.ERROR)`."""
    lines = [(record.getMessage().partition(" (")[0], record.levelno) for record in log.records]
    return [(line, level) for line, level in lines if line.startswith(f"{component}: ")]
