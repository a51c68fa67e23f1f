"""The routes of Alertmanager: who is told, in how many messages, and what is not worth one."""

import re
from dataclasses import dataclass
from typing import Any, Final

from otel_health.observability.alerts import PREFIX
from otel_health.observability.rules import option, require_duration, require_labels, require_some_time

_OF_A_COMPONENT: Final = (
    "ComponentDown",
    "OptionalComponentDown",
    "ComponentDegraded",
    "ComponentSlow",
    "CheckTimeouts",
    "ComponentFlapping",
    "ComponentStale",
    "ComponentMissing",
    "RunsAbandoned",
    "TaskRestarting",
    "RecoveryGaveUp",
)

INHIBITED: Final = (
    # An instance that is down, or whose loop is stuck, says nothing true of its components.
    ("InstanceDown", ("InstanceNotReady", "EventLoopStuck", "EventLoopBlocked", *_OF_A_COMPONENT), "instance"),
    ("EventLoopStuck", ("InstanceNotReady", "EventLoopBlocked", *_OF_A_COMPONENT), "instance"),
    # A component that is down says why its instance is not ready; down everywhere, why all of them are not.
    ("ComponentDownEverywhere", _OF_A_COMPONENT, "component"),
    ("ComponentDownEverywhere", ("InstanceNotReady", "ErrorBudgetBurn"), None),
    ("ComponentDown", ("InstanceNotReady",), "instance"),
    # What is down need not be called slow as well.
    ("ComponentDown", ("ComponentDegraded", "ComponentSlow", "CheckTimeouts", "RunsAbandoned"), "instance,component"),
    ("OptionalComponentDown", ("ComponentSlow", "CheckTimeouts", "RunsAbandoned"), "instance,component"),
)
"""Which alert silences which others, of the same what within a service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Who is told, and how often."""

    page_url: str = option("http://127.0.0.1:9095/page", "the webhook that wakes somebody")
    ticket_url: str = option("http://127.0.0.1:9095/ticket", "the webhook that writes a ticket")
    by: str = option("job", "the labels that tell services apart: one message for each")
    group_wait: str = option("30s", "for how long the first message waits for others of its service, and its cause")
    group_interval: str = option("5m", "between two messages about one service, if anything is new")
    repeat_interval: str = option("4h", "after which it is said again")

    def __post_init__(self) -> None:
        """Refuse what Alertmanager would refuse.

        Raises:
            ValueError: An option is out of its range.
        """
        require_labels(self.by)
        for name in ("page_url", "ticket_url"):
            if not re.match(r"https?://[^/\s]+", getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} is no webhook; write something like 'https://...'")
        for name in ("group_wait", "group_interval", "repeat_interval"):
            require_duration(name, getattr(self, name))
        for name in ("group_interval", "repeat_interval"):
            require_some_time(name, getattr(self, name))


def alertmanager(routes: Routes) -> dict[str, Any]:
    """Return the configuration as Alertmanager reads it."""
    by = routes.by.split(",")
    return {
        "route": {
            "receiver": "ticket",
            "group_by": by,
            "group_wait": routes.group_wait,
            "group_interval": routes.group_interval,
            "repeat_interval": routes.repeat_interval,
            "routes": [{"receiver": "page", "matchers": ['severity="critical"']}],
        },
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname="{PREFIX}{source}"'],
                "target_matchers": [f'alertname=~"{PREFIX}({"|".join(targets)})"'],
                "equal": [*by, *(what.split(",") if what else [])],
            }
            for source, targets, what in INHIBITED
        ]
        # A page about a budget makes the ticket about it superfluous.
        + [
            {
                "source_matchers": [f'alertname="{PREFIX}ErrorBudgetBurn"', 'severity="critical"'],
                "target_matchers": [f'alertname="{PREFIX}ErrorBudgetBurn"', 'severity="warning"'],
                "equal": by,
            }
        ],
        "receivers": [
            {"name": name, "webhook_configs": [{"url": url, "send_resolved": True}]}
            for name, url in (("page", routes.page_url), ("ticket", routes.ticket_url))
        ],
    }
