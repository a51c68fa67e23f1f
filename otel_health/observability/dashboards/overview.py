"""The overview: what is down, since when and why, at one look."""

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models import units

from otel_health.observability.dashboards.expressions import BUCKETS, FAILURES, RUNS, SECONDS, STATUS, UP, quantiles
from otel_health.observability.dashboards.frame import (
    OF_COMPONENT,
    OF_INSTANCE,
    UIDS,
    by_component,
    by_instance,
    framed,
    recoveries,
    troubles,
)
from otel_health.observability.dashboards.panels import (
    BAD_FROM_ONE,
    BLUE,
    GREEN,
    RED,
    STATUSES,
    YELLOW,
    at_once,
    bars,
    column,
    heat,
    lines,
    number,
    query,
    rows,
    timeline,
)

READY = f'otel_health_probe_up{{{OF_INSTANCE},probe="readyz"}}'
SCRAPED = (
    f"up{{{OF_INSTANCE}}} and on (job) group by (job) (last_over_time(otel_health_probe_up{{{OF_INSTANCE}}}[$__range]))"
)
TO_COMPONENT = (
    f"/d/{UIDS['component']}?${{datasource:queryparam}}&${{job:queryparam}}&${{instance:queryparam}}"
    "&${__url_time_range}&var-component=${__data.fields.Component}"
)


def overview() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = (
        framed("overview", "Health / Overview", "What is down, since when and why: all components of all instances.")
        .with_variable(by_instance())
        .with_variable(by_component(several=True))
        .annotation(troubles())
        .annotation(recoveries())
    )
    for panel in (
        number(
            "Ready instances",
            "Instances whose readyz passes or warns, and how many report at all.",
            at_once(f"sum(min by (job, instance) ({READY}))", "ready"),
            at_once(f"count(group by (job, instance) ({READY}))", "of"),
            limits=((None, RED), (1, BLUE)),
            named=True,
        ),
        number(
            "Instances not scraped",
            "Targets that Prometheus cannot scrape, of services that reported health within the time range.",
            at_once(f"count(({SCRAPED}) == 0) or 0 * count({SCRAPED})"),
            limits=BAD_FROM_ONE,
        ),
        number(
            "Components down",
            "Components that fail, each instance counted.",
            at_once(f"count({UP} == 0) or 0 * count({UP})"),
            limits=BAD_FROM_ONE,
        ),
        number(
            "Components degraded",
            "Components that warn, each instance counted.",
            at_once(f'sum(otel_health_check_status{{{OF_COMPONENT},status="warn"}})'),
            limits=((None, GREEN), (1, YELLOW)),
        ),
        number(
            "Availability",
            "The share of the time range for which instances were ready, while they reported. "
            "The dashboard SLO counts the time in which they could not be scraped as well.",
            at_once(f"avg(avg_over_time({READY}[$__range]))"),
            unit=units.PercentUnit,
            limits=((None, RED), (0.99, YELLOW), (0.999, GREEN)),
            decimals=2,
        ),
        number(
            "Slowest",
            "The component whose runs take longest on average.",
            at_once(f"topk(1, max by (component) ({SECONDS} / {RUNS}))", "{{component}}"),
            unit=units.Seconds,
            limits=((None, BLUE),),
            named=True,
        ),
    ):
        made.with_panel(panel)
    made.with_panel(
        timeline(
            "Status of each component",
            "The worst status that any instance has, as it changed.",
            query(f"max by (component) ({STATUS})", "{{component}}"),
            height=9,
        )
    )
    made.with_panel(components())
    made.with_panel(
        lines(
            "How long runs take",
            "The mean is exact; the quantiles are read from buckets: below 5 ms and above 1 s only roughly.",
            *quantiles(),
            unit=units.Seconds,
        )
    )
    made.with_panel(
        heat(
            "How long runs take, in numbers",
            "Runs a minute by how long they took.",
            f"60 * sum by (le) ({BUCKETS})",
        )
    )
    made.with_panel(
        bars(
            "Failures by error type",
            "Failing runs a minute.",
            query(FAILURES, "{{error_type}}"),
            unit="cpm",
            empty="no failures",
            width=8,
        )
    )
    made.with_panel(
        bars(
            "Flaps",
            "Changes between up and down within the last few scrapes: each shows in more than one bar.",
            query(f"sum by (component) (changes({UP}[$__rate_interval])) > 0", "{{component}}"),
            unit=units.Short,
            empty="no flaps",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Lag of the event loop",
            "How late the event loop comes to what is due: the p99, where a LoopMonitor is open.",
            query(
                "histogram_quantile(0.99, sum by (instance, le) "
                f"(rate(otel_health_event_loop_lag_seconds_bucket{{{OF_INSTANCE}}}[$__rate_interval])))",
                "{{instance}}",
            ),
            unit=units.Seconds,
            width=8,
            empty="no LoopMonitor is open",
        )
    )
    return made


def components() -> table.Panel:
    """Return the table of all components of all instances."""
    return rows(
        "Components by instance",
        "Since when a component does not pass, and its error; how long its runs take, and when the last one ended.",
        at_once(f"max by (job, instance, component) ({STATUS})"),
        at_once(
            "1000 * max by (job, instance, component, error_type) "
            f"(otel_health_check_error_since_seconds{{{OF_COMPONENT}}})"
        ),
        at_once(f"max by (job, instance, component) ({SECONDS} / {RUNS})"),
        at_once(f"1000 * max by (job, instance, component) (otel_health_check_last_run_seconds{{{OF_COMPONENT}}})"),
        columns=(
            column(
                "Value #A",
                "Status",
                mappings=STATUSES,
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                custom__width=90,
            ),
            column("component", "Component", links=[{"title": "In depth", "url": TO_COMPONENT}]),
            column("instance", "Instance"),
            column("job", "Job"),
            column("Value #B", "Since", unit=units.DateTimeFromNow),
            column("error_type", "Error"),
            column("Value #C", "Mean duration", unit=units.Seconds, decimals=3),
            column("Value #D", "Last run", unit=units.DateTimeFromNow),
        ),
        hidden=("Time",),
    )
