"""What somebody is told of, and how urgently.

An expression is about all series: `{}` is where matchers go, `BY` stands for the labels that tell services apart, and
WINDOW, FLAPS and TIMEOUTS for what is given with the rules.
"""

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["critical", "warning"]
"""Whether it wakes somebody, or can wait for the morning."""


PREFIX: Final = "OtelHealth"
"""What the name of every alert begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert, by its name without the prefix."""

    name: str
    severity: Severity
    summary: str
    """One static sentence."""
    description: str
    """The particulars, as a template of Prometheus."""
    expression: str
    waits: Literal["page_after", "not_ready_after", "ticket_after"] | None = None
    """The option that says for how long the expression must be true; None where it looks back by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """How much of an error budget may be burnt within a time: true of a long window, and still true of a short one."""

    share: float
    hours: int
    long: str
    short: str
    severity: Severity

    def factor(self, days: int) -> float:
        """How many times faster it burns than a budget of so many days that lasts exactly."""
        return round(self.share * days * 24 / self.hours, 2)


BURNS: Final = (
    Burn(share=0.02, hours=1, long="1h", short="5m", severity="critical"),
    Burn(share=0.05, hours=6, long="6h", short="30m", severity="critical"),
    Burn(share=0.10, hours=24, long="1d", short="2h", severity="warning"),
    Burn(share=0.10, hours=72, long="3d", short="6h", severity="warning"),
)
"""Those of the SRE Workbook, chapter 5."""

BURN: Final = "ErrorBudgetBurn"
BURN_SUMMARY: Final = "The error budget of a service is being used up too fast."

_STALE: Final = 'otel_health_check_error_since_seconds{error_type="stale"}'

_DOWN: Final = f"""otel_health_check_up{{component!="event-loop"}} == 0
unless ignoring (error_type) {_STALE}
"""

ALERTS: Final = (
    Alert(
        name="InstanceDown",
        severity="critical",
        waits="page_after",
        summary="An instance that should report its health cannot be scraped.",
        description=(
            "{{ $labels.instance }} of {{ $labels.job }} does not answer Prometheus. What it last said of its "
            "components is unknown by now."
        ),
        expression="up{} == 0 and on (BY) last_over_time(job:otel_health_instances:count{}[1w])",
    ),
    Alert(
        name="ServiceGone",
        severity="warning",
        waits="ticket_after",
        summary="A service that reported its health within the last day has no instance any more.",
        description=(
            "Prometheus knows no instance of {{ $labels.job }}, not even one that is down; there were {{ $value }}."
        ),
        expression="""
last_over_time(job:otel_health_instances:count{}[1d])
unless on (BY) (job:otel_health_instances:count{} or job:otel_health_instances_down:count{})
""",
    ),
    Alert(
        name="InstanceNotReady",
        severity="critical",
        waits="not_ready_after",
        summary="An instance is not ready, and takes no traffic.",
        description=(
            "readyz of {{ $labels.instance }} of {{ $labels.job }} fails, and no alert about one of its "
            "components says why."
        ),
        expression='otel_health_probe_up{probe="readyz"} == 0',
    ),
    Alert(
        name="ComponentDown",
        severity="critical",
        waits="page_after",
        summary="A critical component of an instance fails.",
        description=(
            "{{ $labels.component }} fails on {{ $labels.instance }} of {{ $labels.job }}, which is not ready, or "
            "is restarted, because of it."
        ),
        expression=f"{_DOWN}unless otel_health_check_optional{{}}",
    ),
    Alert(
        name="ComponentDownEverywhere",
        severity="critical",
        waits="page_after",
        summary="A critical component fails on all instances of a service: it is the dependency, not an instance.",
        description="{{ $labels.component }} fails on all {{ $value }} instances of {{ $labels.job }}.",
        expression=f"""
count by (BY, component) (group by (BY, instance, component) (
{_DOWN}unless otel_health_check_optional{{}}
))
== count by (BY, component) (group by (BY, instance, component) (otel_health_check_up{{}})) > 1
""",
    ),
    Alert(
        name="OptionalComponentDown",
        severity="warning",
        waits="ticket_after",
        summary="A component fails that the service can do without.",
        description="{{ $labels.component }} fails on {{ $labels.instance }} of {{ $labels.job }}, which serves on.",
        expression=f"{_DOWN}and otel_health_check_optional{{}}",
    ),
    Alert(
        name="ComponentDegraded",
        severity="warning",
        waits="ticket_after",
        summary="A component works, but not as well as it should.",
        description="{{ $labels.component }} warns on {{ $labels.instance }} of {{ $labels.job }}.",
        expression='otel_health_check_status{status="warn"} == 1',
    ),
    Alert(
        name="ComponentSlow",
        severity="warning",
        waits="ticket_after",
        summary="The runs of a check take nearly as long as their timeout.",
        description=(
            "{{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} was slow for {{ $value | "
            "humanizePercentage }} of the time; a little slower and it fails."
        ),
        expression="""
count_over_time(otel_health_check_slow{}[WINDOW])
/ count_over_time(otel_health_check_up{}[WINDOW]) > 0.5
""",
    ),
    Alert(
        name="CheckTimeouts",
        severity="warning",
        waits="ticket_after",
        summary="Many runs of a check do not end by their timeout.",
        description=(
            "{{ $value | humanizePercentage }} of the runs of {{ $labels.component }} on {{ $labels.instance }} "
            "of {{ $labels.job }} time out."
        ),
        expression="""
sum without (error_type) (rate(otel_health_check_failures_total{error_type="timeout"}[WINDOW]))
/ rate(otel_health_check_duration_seconds_count{}[WINDOW]) > TIMEOUTS
""",
    ),
    Alert(
        name="ComponentFlapping",
        severity="warning",
        summary="A component keeps changing between up and down.",
        description=(
            "{{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} went up or down {{ $value }} "
            "times in a short time."
        ),
        expression="changes(otel_health_check_up{}[WINDOW]) >= FLAPS",
    ),
    Alert(
        name="ComponentStale",
        severity="warning",
        waits="page_after",
        summary="A component is no longer checked: nobody knows how it is.",
        description=(
            "The last result of {{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} is too "
            "old to be believed."
        ),
        expression='otel_health_check_error_since_seconds{component!="event-loop",error_type="stale"}',
    ),
    Alert(
        name="ComponentMissing",
        severity="warning",
        waits="ticket_after",
        summary="A component was never decided, or has vanished from an instance that still reports.",
        description=(
            "{{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} is registered without a "
            "first result, or was registered within the last hour and is no more."
        ),
        expression="""
group by (BY, instance, component) (otel_health_check_error_since_seconds{error_type="pending"})
or (
  group by (BY, instance, component) (last_over_time(otel_health_check_abandoned{}[1h]))
  unless group by (BY, instance, component) (otel_health_check_abandoned{})
  and on (BY, instance) otel_health_probe_up{}
)
""",
    ),
    Alert(
        name="RunsAbandoned",
        severity="warning",
        waits="ticket_after",
        summary="A check hangs: a run of it outlived its deadline and cannot be ended.",
        description=(
            "{{ $value }} abandoned runs of {{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job "
            "}} hold a thread or a task."
        ),
        expression="otel_health_check_abandoned{} > 0",
    ),
    Alert(
        name="TaskRestarting",
        severity="warning",
        summary="A supervised task keeps crashing, and is started anew each time.",
        description=(
            "{{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} was started anew about {{ $value "
            "| humanize }} times in a short time; the log says what it crashes with."
        ),
        expression="increase(otel_health_task_restarts_total{}[WINDOW]) > 3",
    ),
    Alert(
        name="RecoveryGaveUp",
        severity="warning",
        waits="page_after",
        summary="What mends a component by itself has given up: nothing more happens until somebody does something.",
        description=(
            "{{ $labels.component }} on {{ $labels.instance }} of {{ $labels.job }} still fails after all restarts of "
            "its task, or attempts at its recovery."
        ),
        expression="""
otel_health_task_state{state="gave_up"} == 1
or otel_health_recovery_state{state="gave_up"} == 1
""",
    ),
    Alert(
        name="EventLoopStuck",
        severity="critical",
        summary="The event loop of an instance is stuck: it answers nobody.",
        description=(
            "The event loop of {{ $labels.instance }} of {{ $labels.job }} has not turned for longer than is put "
            "up with; livez fails, and the log holds the stack of what blocks it."
        ),
        expression='otel_health_check_up{component="event-loop"} == 0',
    ),
    Alert(
        name="EventLoopBlocked",
        severity="warning",
        summary="Something keeps blocking the event loop of an instance for a second and more.",
        description=(
            "The event loop of {{ $labels.instance }} of {{ $labels.job }} was blocked for more than a second "
            "about {{ $value | humanize }} times in a short time; the log holds the stacks."
        ),
        # Prometheus 2 shows the bound as it was written, Prometheus 3 and OTLP's translation in one form each.
        expression="""
increase(otel_health_event_loop_lag_seconds_count{}[WINDOW])
- ignoring (le) increase(otel_health_event_loop_lag_seconds_bucket{le=~"1|1.0"}[WINDOW]) > 2
""",
    ),
)
