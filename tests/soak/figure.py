"""What a gate measures, and what it measures with."""

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_health import Checker

MEBIBYTE: Final = 2**20


class Figure(NamedTuple):
    """One goal: what was promised, what was measured, and whether the promise was held."""

    goal: str
    promised: str
    measured: str
    held: bool


Gate = Callable[[float], Figure]
"""Measures one goal; the scale shortens durations and counts, and 1.0 is the whole goal."""


def scaled(full: int, scale: float, least: int = 1) -> int:
    """Return a count shortened by the scale."""
    return max(round(full * scale), least)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, after a garbage collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def library_threads() -> set[str]:
    """The names of the threads that the library has now."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("otel_health")}


def open_files() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def silent_checker(**options: Any) -> Checker:
    """Return a Checker that logs and traces nothing."""
    options.setdefault("logger", logging.Logger("silent", level=logging.CRITICAL))
    options.setdefault("trace", "never")
    return Checker(**options)


def virtual_checker(**options: Any) -> Checker:
    """Return a silent Checker whose clock is the running loop's."""
    return silent_checker(clock=asyncio.get_running_loop().time, **options)


Series = tuple[str, tuple[tuple[str, Any], ...]]


def series_of(reader: InMemoryMetricReader) -> dict[Series, Any]:
    """Collect, and return each series, by its instrument and attributes, with its data point."""
    collected = reader.get_metrics_data()
    found: dict[Series, Any] = {}
    if collected is None:
        return found
    for resource in collected.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    found[metric.name, tuple(sorted((point.attributes or {}).items()))] = point
    return found
