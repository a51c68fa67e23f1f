"""The rules of Prometheus: what is recorded, and what somebody is told of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from otel_health.observability.alerts import ALERTS, BURN, BURN_SUMMARY, BURNS, PREFIX, Burn

AVAILABILITY_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
"""Over which the availability of a service is recorded: those that the burn of a budget is judged by, and the month."""

COMPONENT_WINDOWS: Final = ("1h", "1d", "30d")

QUANTILES: Final = (0.5, 0.95, 0.99)

MEMORY: Final = "1w"
"""For how long a job that once reported its health is known to do so."""

_DURATION: Final = re.compile(r"(?:\d+(?:ms|[smhdwy]))+|0")
_MATCHERS: Final = re.compile(r'\s*[a-zA-Z_]\w*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"\s*(?:,\s*(?=[a-zA-Z_])|$)')
_LABEL: Final = re.compile(r"[a-zA-Z_]\w*")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


def option(default: Any, meaning: str) -> Any:
    """Return a field that the command line asks for, and explains so."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the rules of one service differ in from those of another; each says of itself what it means."""

    selector: str = option("", "matchers of the series that the rules are about, such as 'job=\"orders\"'")
    by: str = option("job", "the labels that tell services apart, such as 'namespace,job'")
    slo: float = option(99.9, "percent of the time for which the instances of a service are to be ready")
    slo_days: int = option(30, "the days over which that is promised")
    page_after: str = option("1m", "for how long what wakes people must have been true")
    not_ready_after: str = option("5m", "for how long an instance may be not ready without a known reason")
    ticket_after: str = option("15m", "for how long what can wait for the morning must have been true")
    window: str = option("15m", "over which flaps, timeouts, slow runs and blocks of the event loop are counted")
    flaps: int = option(6, "changes between up and down, within the window, from which a component flaps")
    timeouts: float = option(0.1, "the share of a check's runs that may time out")
    interval: str = option("", "between two evaluations, where it is not to be Prometheus' own")
    slow_interval: str = option("5m", "between two evaluations of what is recorded over days for each component")
    runbooks: str = option("docs/runbooks", "where the runbooks are published")

    def __post_init__(self) -> None:
        """Refuse what Prometheus would refuse, or what would silently never fire.

        Raises:
            ValueError: An option is out of its range.
        """
        for name in ("page_after", "not_ready_after", "ticket_after", "window", "interval", "slow_interval"):
            if name != "interval" or self.interval:
                require_duration(name, getattr(self, name))
        require_some_time("window", self.window)
        if _MATCHERS.sub("", self.selector):
            raise ValueError(
                f"""selector={self.selector!r} is no list of matchers; write something like 'job="orders"'"""
            )
        require_labels(self.by)
        for label in re.findall(r"([a-zA-Z_]\w*)\s*[=!]", re.sub(r'"(?:[^"\\]|\\.)*"', '""', self.selector)):
            if label not in self.by.split(","):
                raise ValueError(
                    f"the selector chooses by {label!r}, which what is recorded would not have; "
                    f"add it to by={self.by!r}"
                )
        if self.slo_days < 1 or self.flaps < 1:
            raise ValueError("slo_days and flaps must be whole numbers from 1")
        if not 1 < self.slo < 100:
            raise ValueError(f"slo={self.slo!r} must be a percentage below 100, such as 99.9")
        if max(burn.factor(self.slo_days) for burn in BURNS) * self.budget >= 1:
            raise ValueError(
                f"slo={self.slo!r} over {self.slo_days} days leaves so much that nothing could burn it too fast; "
                "promise more"
            )
        if not 0 < self.timeouts < 1:
            raise ValueError(f"timeouts={self.timeouts!r} must be a share between 0 and 1")

    @property
    def budget(self) -> float:
        """The share of the time for which a service may be unready."""
        return round(1 - self.slo / 100, 12)


def require_duration(name: str, value: str) -> None:
    """Refuse what Prometheus and Alertmanager would not take for a duration.

    Raises:
        ValueError: It is none.
    """
    if _DURATION.fullmatch(value) is None:
        raise ValueError(f"{name}={value!r} is no duration of Prometheus; write something like '5m'")


def require_some_time(name: str, value: str) -> None:
    """Refuse a duration of zero, where Prometheus or Alertmanager would not load it.

    Raises:
        ValueError: It is zero.
    """
    if not re.search("[1-9]", value):
        raise ValueError(f"{name}={value!r} is no time at all; write something like '5m'")


def require_labels(by: str) -> None:
    """Refuse what cannot tell services apart.

    Raises:
        ValueError: One is no label, or `job` is not among them.
    """
    if not all(_LABEL.fullmatch(label) for label in by.split(",")):
        raise ValueError(f"by={by!r} is no list of labels; write something like 'namespace,job'")
    if "job" not in by.split(","):
        raise ValueError(f"by={by!r} leaves out 'job', which the dashboards choose by; add it")


def rules(options: Options) -> dict[str, object]:
    """Return everything as Prometheus reads it."""
    groups = [
        ("otel_health.state", options.interval, list(_states(options))),
        ("otel_health.availability", options.interval, list(_availability(options))),
        ("otel_health.components", options.slow_interval, list(_components(options))),
        ("otel_health.alerts", options.interval, list(_alerts(options))),
    ]
    return {
        "groups": [
            {"name": name, **({"interval": interval} if interval else {}), "rules": found}
            for name, interval, found in groups
        ]
    }


def _states(options: Options) -> Iterator[dict[str, object]]:
    for record, expression in {
        "job:otel_health_instances:count": (
            'count by (BY) (group by (BY, instance) (otel_health_probe_up{probe="readyz"}))'
        ),
        "job:otel_health_instances_down:count": (
            f"count by (BY) (up{{}} == 0 and on (BY) last_over_time(job:otel_health_instances:count{{}}[{MEMORY}]))"
        ),
        "job:otel_health_instances_ready:count": (
            'sum by (BY) (min by (BY, instance) (otel_health_probe_up{probe="readyz"}))'
        ),
        # An instance that cannot be scraped is not ready; where all cannot, none is.
        "job:otel_health_ready:ratio": (
            "(job:otel_health_instances_ready:count{} or 0 * job:otel_health_instances_down:count{})\n"
            "/ (\n"
            "  (job:otel_health_instances:count{} or 0 * job:otel_health_instances_down:count{})\n"
            "  + (job:otel_health_instances_down:count{} or 0 * job:otel_health_instances:count{})\n"
            ")"
        ),
        "job:otel_health_objective:ratio": f"0 * job:otel_health_ready:ratio{{}} + {options.slo / 100:.12g}",
        "job:otel_health_budget_left:ratio": (
            f"1 - (1 - avg_over_time(job:otel_health_ready:ratio{{}}[{options.slo_days}d])) / {options.budget:g}"
        ),
        "job_component:otel_health_check_status:count": ("sum by (BY, component, status) (otel_health_check_status{})"),
        "job_component:otel_health_check_up:ratio": "avg by (BY, component) (otel_health_check_up{})",
    }.items():
        yield _recorded(options, record, expression)
    for quantile in QUANTILES:
        yield _recorded(
            options,
            f"job_component:otel_health_check_duration_seconds:p{quantile * 100:g}",
            f"histogram_quantile({quantile}, "
            "sum by (BY, component, le) (rate(otel_health_check_duration_seconds_bucket{}[5m])))",
        )


def _availability(options: Options) -> Iterator[dict[str, object]]:
    for window in AVAILABILITY_WINDOWS:
        yield _recorded(
            options,
            f"job:otel_health_ready:ratio_avg_{window}",
            f"avg_over_time(job:otel_health_ready:ratio{{}}[{window}])",
        )


def _components(options: Options) -> Iterator[dict[str, object]]:
    for window in COMPONENT_WINDOWS:
        yield _recorded(
            options,
            f"job_component:otel_health_check_up:ratio_avg_{window}",
            f"avg_over_time(job_component:otel_health_check_up:ratio{{}}[{window}])",
        )


def _alerts(options: Options) -> Iterator[dict[str, object]]:
    numbers = {"WINDOW": options.window, "FLAPS": str(options.flaps), "TIMEOUTS": f"{options.timeouts:g}"}
    for alert in ALERTS:
        expression = re.sub("|".join(numbers), lambda found: numbers[found[0]], alert.expression.strip())
        yield {
            "alert": f"{PREFIX}{alert.name}",
            "expr": _chosen(options, expression),
            **({"for": getattr(options, alert.waits)} if alert.waits else {}),
            "labels": {"severity": alert.severity},
            "annotations": _annotations(options, alert.name, alert.summary, alert.description),
        }
    for burn in BURNS:
        yield _burn(options, burn)


def _burn(options: Options, burn: Burn) -> dict[str, object]:
    limit = f"{burn.factor(options.slo_days):g} * {options.budget:g}"
    expression = (
        f"1 - job:otel_health_ready:ratio_avg_{burn.long}{{}} > {limit}\n"
        f"and 1 - job:otel_health_ready:ratio_avg_{burn.short}{{}} > {limit}\n"
        # Of a service that is newer than the short window, an average over a few samples says nothing.
        f"and on (BY) last_over_time(job:otel_health_ready:ratio{{}}[{burn.long}] offset {burn.short})"
    )
    description = (
        f"{{{{ $labels.job }}}} was unready for {{{{ $value | humanizePercentage }}}} of the last {burn.long}: "
        f"more than {burn.factor(options.slo_days):g} times what {options.slo:g} % over {options.slo_days} days allows."
    )
    return {
        "alert": f"{PREFIX}{BURN}",
        "expr": _chosen(options, expression),
        "labels": {"severity": burn.severity, "long": burn.long, "short": burn.short},
        "annotations": _annotations(options, BURN, BURN_SUMMARY, description),
    }


def _annotations(options: Options, name: str, summary: str, description: str) -> dict[str, str]:
    return {
        "summary": summary,
        "description": description,
        "runbook_url": f"{options.runbooks.rstrip('/')}/{PREFIX}{name}.md",
    }


def _recorded(options: Options, record: str, expression: str) -> dict[str, object]:
    return {"record": record, "expr": _chosen(options, expression)}


def _chosen(options: Options, expression: str) -> str:
    """The expression about the series of the selector, told apart by the labels of the options."""

    def chosen(braces: re.Match[str]) -> str:
        matchers = [matcher for matcher in (options.selector.strip(), braces[1].strip()) if matcher]
        return f"{{{','.join(matchers)}}}" if matchers else ""

    return _BRACES.sub(chosen, re.sub(r"\bBY\b", options.by.replace(",", ", "), expression))
