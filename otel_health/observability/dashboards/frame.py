"""What all dashboards share: how one chooses, how one gets from one to the other, and what is marked in time."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from otel_health.observability.dashboards.panels import GREEN, RED, SOURCE

TAG: Final = "otel_health"

UIDS: Final = {name: f"otel-health-{name}" for name in ("overview", "component", "slo")}

OF_JOB: Final = 'job=~"$job"'
OF_INSTANCE: Final = f'{OF_JOB},instance=~"$instance"'
OF_COMPONENT: Final = f'{OF_INSTANCE},component=~"$component"'


def framed(name: str, title: str, description: str) -> dashboard.Dashboard:
    """Return a dashboard that one can choose in; its panels and what one chooses by are still to come."""
    return (
        dashboard.Dashboard(title)
        .uid(UIDS[name])
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Health")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(VariableOption(text="default", value="default"))
        )
        .with_variable(choice("job", "label_values(otel_health_probe_up, job)"))
    )


def by_instance() -> dashboard.QueryVariable:
    """Return the choice of instances."""
    return choice("instance", f"label_values(otel_health_probe_up{{{OF_JOB}}}, instance)")


def by_component(*, several: bool) -> dashboard.QueryVariable:
    """Return the choice of components, or of one."""
    return choice(
        "component", f"label_values(otel_health_check_abandoned{{{OF_INSTANCE}}}, component)", several=several
    )


def choice(label: str, values: str, *, several: bool = True) -> dashboard.QueryVariable:
    """Return the choice of what has a label of some values."""
    made = (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    return made.all_value(".+").current(VariableOption(text="All", value="$__all")) if several else made


def troubles() -> dashboard.AnnotationQuery:
    """Return the marks of when something ceased to pass, to the second."""
    return (
        dashboard.AnnotationQuery()
        .name("Trouble begins")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(RED)
        # The value is the time, whenever it is scraped.
        .expr(f"1000 * otel_health_check_error_since_seconds{{{OF_COMPONENT}}}")
        .use_value_for_time(True)
        .title_format("{{component}}: {{error_type}}")
        .text_format("on {{instance}}")
        .tag_keys("component,instance,error_type")
    )


def recoveries() -> dashboard.AnnotationQuery:
    """Return the marks of when something passes again, to the scrape."""
    passing = f'otel_health_check_status{{{OF_COMPONENT},status="pass"}}'
    return (
        dashboard.AnnotationQuery()
        .name("Passes again")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(GREEN)
        .expr(f"({passing} == 1) and changes({passing}[$__rate_interval]) > 0")
        .title_format("{{component}} passes again")
        .text_format("on {{instance}}")
        .tag_keys("component,instance")
    )
