"""The health layer for OpenTelemetry: check functions in; probes, metrics and events out."""

from otel_health.check import Check, CheckFunc, Degraded, Failed, completes, in_thread
from otel_health.checker import Checker
from otel_health.compose import all_of, any_of, at_least, retried, threshold
from otel_health.gate import Gate
from otel_health.heartbeat import Heartbeat
from otel_health.report import CheckResult, ComponentState, ErrorType, HealthReport, Status, Transition

__version__ = "0.1.0"

__all__ = [
    "Check",
    "CheckFunc",
    "CheckResult",
    "Checker",
    "ComponentState",
    "Degraded",
    "ErrorType",
    "Failed",
    "Gate",
    "HealthReport",
    "Heartbeat",
    "Status",
    "Transition",
    "all_of",
    "any_of",
    "at_least",
    "completes",
    "in_thread",
    "retried",
    "threshold",
]
