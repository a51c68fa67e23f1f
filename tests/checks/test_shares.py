"""Shares are written as shares: a percentage would never be reached, and the check would never say anything."""

from collections.abc import Callable
from typing import Any

import pytest

from otel_health.checks import cgroup, disk, mysql, otlp, postgres, process, redis, sqlalchemy

POOL: Any = object()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: disk.usage("/", warn=85, fail=95), id="disk.usage"),
        pytest.param(lambda: disk.usage("/", fail=95), id="disk.usage fail"),
        pytest.param(lambda: cgroup.memory(warn=85, fail=95), id="cgroup.memory"),
        pytest.param(lambda: cgroup.cpu_throttling(warn=25), id="cgroup.cpu_throttling"),
        pytest.param(lambda: process.open_files(warn=80, fail=95), id="process.open_files"),
        pytest.param(lambda: otlp.queue_use(POOL, warn=80), id="otlp.queue_use"),
        pytest.param(lambda: mysql.pool_use(POOL, warn=90), id="mysql.pool_use"),
        pytest.param(lambda: postgres.pool_use(POOL, warn=90), id="postgres.pool_use"),
        pytest.param(lambda: redis.pool_use(POOL, warn=90), id="redis.pool_use"),
        pytest.param(lambda: sqlalchemy.pool_use(POOL, warn=90), id="sqlalchemy.pool_use"),
    ],
)
def test_a_percentage_is_refused(make: Callable[[], object]) -> None:
    """Where it is written, with how to write it."""
    with pytest.raises(ValueError, match=r"would never be reached; write a share, such as 0.9 for 90 %"):
        make()
