"""What more than one dashboard asks Prometheus."""

from collections.abc import Iterator
from typing import Final

from grafana_foundation_sdk.builders import prometheus

from otel_health.observability.dashboards.frame import OF_COMPONENT
from otel_health.observability.dashboards.panels import query

STATUS: Final = (
    f'otel_health_check_status{{{OF_COMPONENT},status="warn"}} '
    f'+ ignoring (status) 2 * otel_health_check_status{{{OF_COMPONENT},status="fail"}}'
)
"""0 for a pass, 1 for a warn, 2 for a fail."""

UP: Final = f"otel_health_check_up{{{OF_COMPONENT}}}"

SECONDS: Final = f"rate(otel_health_check_duration_seconds_sum{{{OF_COMPONENT}}}[$__rate_interval])"
RUNS: Final = f"rate(otel_health_check_duration_seconds_count{{{OF_COMPONENT}}}[$__rate_interval])"
BUCKETS: Final = f"rate(otel_health_check_duration_seconds_bucket{{{OF_COMPONENT}}}[$__rate_interval])"

FAILURES: Final = (
    f"60 * sum by (error_type) (rate(otel_health_check_failures_total{{{OF_COMPONENT}}}[$__rate_interval]))"
)


def quantiles() -> Iterator[prometheus.Dataquery]:
    """Return how long runs take: on average, half of them, nearly all, all but one of a hundred."""
    yield query(f"sum({SECONDS}) / sum({RUNS})", "mean")
    for quantile, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        yield query(f"histogram_quantile({quantile}, sum by (le) ({BUCKETS}))", name)
