"""Every name that telemetry shows."""

from typing import Final

SCOPE: Final = "otel_health"

CHECK_UP: Final = "otel_health.check.up"
CHECK_STATUS: Final = "otel_health.check.status"
CHECK_DURATION: Final = "otel_health.check.duration"
CHECK_FAILURES: Final = "otel_health.check.failures"
CHECK_LAST_RUN: Final = "otel_health.check.last_run"
CHECK_LAST_SUCCESS: Final = "otel_health.check.last_success"
CHECK_OBSERVATION: Final = "otel_health.check.observation"
CHECK_ABANDONED: Final = "otel_health.check.abandoned"
PROBE_UP: Final = "otel_health.probe.up"
PROBE_STATUS: Final = "otel_health.probe.status"
EVENT_LOOP_LAG: Final = "otel_health.event_loop.lag"

COMPONENT: Final = "component"
ERROR_TYPE: Final = "error_type"
OBSERVATION: Final = "observation"
PROBE: Final = "probe"
STATUS: Final = "status"

SPAN: Final = "otel_health.check"
"""The name of the span that a failing run leaves."""

EVENT_COMPONENT: Final = "otel_health.component"
EVENT_FROM: Final = "otel_health.from"
EVENT_TO: Final = "otel_health.to"
EVENT_ERROR_TYPE: Final = "otel_health.error_type"
EVENT_DURATION: Final = "otel_health.duration"
EVENT_OUTAGE: Final = "otel_health.outage_seconds"
EVENT_TRACE_ID: Final = "otel_health.trace_id"
EVENT_BLOCKED: Final = "otel_health.blocked_seconds"
EVENT_STACK: Final = "code.stacktrace"
"""OpenTelemetry's own name for it."""
