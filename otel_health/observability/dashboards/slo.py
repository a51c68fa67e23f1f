"""The objective: how much of the error budget is left, and how fast it burns. It reads what the rules record."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from otel_health.observability.alerts import BURNS
from otel_health.observability.dashboards.frame import OF_JOB, framed
from otel_health.observability.dashboards.panels import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    at_once,
    lines,
    number,
    query,
    ranking,
)

LEFT = f"job:otel_health_budget_left:ratio{{{OF_JOB}}}"
OBJECTIVE = f"job:otel_health_objective:ratio{{{OF_JOB}}}"
UNRECORDED = "not recorded"
"""Without the rules there is nothing to show."""


def slo() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = framed(
        "slo",
        "Health / SLO",
        "Readiness against its objective. An instance that cannot be scraped counts as not ready. "
        "Needs the recording rules of otel_health.",
    ).time("now-7d", "now")
    for panel in (
        number(
            "Budget left",
            "The share of the error budget of the objective's period that is left, of the service that has least. "
            "Below zero the objective is missed. A service younger than that is judged by what it has.",
            at_once(f"min({LEFT})"),
            unit=units.PercentUnit,
            limits=((None, RED), (0.001, YELLOW), (0.5, GREEN)),
            decimals=1,
            empty=UNRECORDED,
        ),
        number(
            "Objective",
            "The share of the time for which instances are to be ready, as the rules were written.",
            at_once(f"max({OBJECTIVE})"),
            unit=units.PercentUnit,
            decimals=2,
            empty=UNRECORDED,
        ),
        *(
            number(
                f"Availability, {words}",
                f"The share of ready instances over the last {words}, of the service that has least.",
                at_once(f"min(job:otel_health_ready:ratio_avg_{window}{{{OF_JOB}}})"),
                unit=units.PercentUnit,
                decimals=3,
                empty=UNRECORDED,
            )
            for window, words in (("1h", "hour"), ("1d", "day"), ("3d", "3 days"), ("30d", "30 days"))
        ),
    ):
        made.with_panel(panel)
    for chart in (
        lines(
            "Error budget left",
            "Falls while instances are unready; what happened leaves the period at its other end.",
            query(LEFT, "{{job}}"),
            unit=units.PercentUnit,
            most=1,
            least=None,
            down_to=0,
            limits=((None, GREEN), (0, RED)),
            empty=UNRECORDED,
        ),
        lines(
            "Ready instances",
            "The share of instances that are ready, moment by moment.",
            query(f"job:otel_health_ready:ratio{{{OF_JOB}}}", "{{job}}"),
            unit=units.PercentUnit,
            most=1,
            empty=UNRECORDED,
        ),
        lines(
            "Burn",
            "How many times faster the budget burns than one that lasts exactly. The lines across are where alerts "
            "begin, for a budget of 30 days: 14.4 over 1 h and 6 over 6 h wake somebody.",
            *(
                query(
                    f"(1 - job:otel_health_ready:ratio_avg_{burn.long}{{{OF_JOB}}}) / (1 - {OBJECTIVE})",
                    f"{burn.long}, {{{{job}}}}",
                )
                for burn in BURNS
            ),
            unit="x",
            up_to=1,
            empty=UNRECORDED,
            limits=((None, GREEN), (1, YELLOW), (6, RED), (14.4, RED)),
        ),
        ranking(
            "Components that were up least",
            "Over the last day, on all instances of a service: where the budget goes.",
            at_once(
                f"bottomk(10, job_component:otel_health_check_up:ratio_avg_1d{{{OF_JOB}}})", "{{component}}, {{job}}"
            ),
            unit=units.PercentUnit,
            limits=((None, BLUE),),
            width=12,
            empty=UNRECORDED,
        ),
    ):
        made.with_panel(chart)
    return made
