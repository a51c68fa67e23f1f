"""One component in depth: how it is, what it measures, and whether it is everyone's problem or only mine."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from otel_health.observability.dashboards.expressions import BUCKETS, FAILURES, RUNS, SECONDS, STATUS, UP, quantiles
from otel_health.observability.dashboards.frame import (
    OF_COMPONENT,
    by_component,
    by_instance,
    framed,
    recoveries,
    troubles,
)
from otel_health.observability.dashboards.panels import (
    BAD_FROM_ONE,
    GREEN,
    NOTHING,
    RED,
    STATUSES,
    YELLOW,
    at_once,
    bars,
    heat,
    lines,
    number,
    query,
    timeline,
)

ABANDONED = f"otel_health_check_abandoned{{{OF_COMPONENT}}}"
ON_INSTANCES = f"min by (job, instance) ({UP})"
SINCE = f"1000 * min(otel_health_check_error_since_seconds{{{OF_COMPONENT}}})"
OPTIONAL = f"max(otel_health_check_optional{{{OF_COMPONENT}}}) or 0 * max({ABANDONED})"


def component() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = (
        framed("component", "Health / Component", "One component in depth, on all instances that have it.")
        .with_variable(by_instance())
        .with_variable(by_component(several=False))
        .annotation(troubles())
        .annotation(recoveries())
    )
    for panel in (
        number(
            "Status",
            "The worst status that any instance has.",
            at_once(f"max({STATUS})"),
            unit=units.NoUnit,
            mappings=STATUSES,
        ),
        number(
            "Not passing since",
            "When the first instance that does not pass ceased to.",
            # Without trouble there is no such series, and a 0 says so.
            at_once(f"{SINCE} or 0 * max({UP})"),
            unit=units.DateTimeFromNow,
            mappings=[ValueMap({"0": ValueMappingResult(text="passes", color=GREEN, index=0)}), NOTHING],
            limits=((None, GREEN), (1, RED)),
        ),
        number(
            "Failing instances",
            "On how many instances it fails, of how many. All: it is everyone's problem. One: it is only mine.",
            at_once(f"count({ON_INSTANCES} == 0) or 0 * count({ON_INSTANCES})", "failing"),
            at_once(f"count({ON_INSTANCES})", "of"),
            named=True,
        ),
        number(
            "Availability",
            "The share of the time range for which it was up, over all instances.",
            at_once(f"avg(avg_over_time({UP}[$__range]))"),
            unit=units.PercentUnit,
            limits=((None, RED), (0.99, YELLOW), (0.999, GREEN)),
            decimals=2,
        ),
        number(
            "If it fails",
            "Whether its failure takes the instance out of service, or the instance goes on.",
            at_once(OPTIONAL),
            unit=units.NoUnit,
            mappings=[
                ValueMap(
                    {
                        "0": ValueMappingResult(text="not ready", index=0),
                        "1": ValueMappingResult(text="goes on", index=1),
                    }
                ),
                NOTHING,
            ],
        ),
        number(
            "Abandoned runs",
            "Runs that outlived their deadline and still live, on all instances.",
            at_once(f"sum({ABANDONED})"),
            limits=BAD_FROM_ONE,
        ),
    ):
        made.with_panel(panel)
    made.with_panel(
        timeline(
            "Status on each instance",
            "Everyone's problem shows in all rows at the same time, mine in one.",
            query(f"max by (instance) ({STATUS})", "{{instance}}"),
            height=7,
        )
    )
    for chart in (
        lines(
            "Share of instances that fail",
            "At 100 % it is the dependency; below, look at the instances that fail, and at what they have in common.",
            query(f"1 - avg by (job) ({UP})", "{{job}}"),
            unit=units.PercentUnit,
            most=1,
            limits=((None, GREEN), (1, RED)),
        ),
        lines(
            "Mean duration on each instance",
            "One line apart from the others is a matter of that instance.",
            query(f"max by (instance) ({SECONDS} / {RUNS})", "{{instance}}"),
            unit=units.Seconds,
        ),
        lines(
            "How long runs take",
            "The mean is exact; the quantiles are read from buckets: below 5 ms and above 1 s only roughly.",
            *quantiles(),
            unit=units.Seconds,
        ),
        heat(
            "How long runs take, in numbers",
            "Runs a minute by how long they took.",
            f"60 * sum by (le) ({BUCKETS})",
        ),
        lines(
            "Observations",
            "What the check measured: backlogs, lags, places in a pool. Its own units.",
            query(f"otel_health_check_observation{{{OF_COMPONENT}}}", "{{observation}} on {{instance}}"),
            unit=units.Short,
            least=None,
            empty="its check measures nothing",
        ),
        bars(
            "Failures by error type",
            "Failing runs a minute.",
            query(FAILURES, "{{error_type}}"),
            unit="cpm",
            empty="no failures",
        ),
        lines(
            "Time since the last run and the last success",
            "A run that is late is one that hangs, or that nobody starts.",
            query(
                f"time() - max by (instance) (otel_health_check_last_run_seconds{{{OF_COMPONENT}}})",
                "run on {{instance}}",
            ),
            query(
                f"time() - max by (instance) (otel_health_check_last_success_seconds{{{OF_COMPONENT}}})",
                "success on {{instance}}",
            ),
            unit=units.Seconds,
        ),
        lines(
            "Slow runs",
            "Instances on which runs take more than four fifths of the timeout, though they pass.",
            query(f"sum(otel_health_check_slow{{{OF_COMPONENT}}}) or 0 * sum({UP})", "slow instances"),
            unit=units.Short,
            up_to=1,
        ),
        lines(
            "Its supervised task",
            "On how many instances the task runs, is started anew, or was given up, where the component is one.",
            query(f"sum by (state) (otel_health_task_state{{{OF_COMPONENT}}})", "{{state}}"),
            unit=units.Short,
            up_to=1,
            empty="no supervised task",
        ),
        bars(
            "Restarts of its task",
            "A task that crashes is started anew. Restarts a minute.",
            query(_a_minute("instance", "otel_health_task_restarts_total"), "{{instance}}"),
            unit="cpm",
            empty="no supervised task",
        ),
        lines(
            "Its recovery",
            "On how many instances a recovery action runs, may follow, or was given up, where its check has one.",
            query(f"sum by (state) (otel_health_recovery_state{{{OF_COMPONENT}}})", "{{state}}"),
            unit=units.Short,
            up_to=1,
            empty="no recovery action",
        ),
        bars(
            "Recovery attempts by outcome",
            "How the action ended; whether it helped, the status tells. Attempts a minute.",
            query(_a_minute("outcome", "otel_health_recovery_attempts_total"), "{{outcome}}"),
            unit="cpm",
            empty="no attempts",
        ),
    ):
        made.with_panel(chart)
    return made


def _a_minute(label: str, counter: str) -> str:
    return f"60 * sum by ({label}) (rate({counter}{{{OF_COMPONENT}}}[$__rate_interval]))"
