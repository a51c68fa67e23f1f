"""Health reports as bytes: IETF health+json and Kubernetes' text, as far as the caller may look."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from otel_health.report import CheckResult, ComponentState, ErrorType, HealthReport, Recovery, Status

Details = Literal["status", "names", "full"]
DETAILS: Final = ("status", "names", "full")


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers, as health+json names it."""

    service_id: str | None = None
    version: str | None = None
    release_id: str | None = None


def as_json(report: HealthReport, details: Details, service: Service, unknown: Collection[str] = ()) -> bytes:
    """Render IETF health+json (draft-inadarei-api-health-check-06, sections 3 and 4).

    Args:
        report: What to render.
        details: How much of it may be seen.
        service: Who answers; seen with `full` details only.
        unknown: Names that a caller wanted excluded and that match nothing.
    """
    body: dict[str, object] = {"status": report.status}
    if details == "full":
        named = {"serviceId": service.service_id, "version": service.version, "releaseId": service.release_id}
        body.update({key: value for key, value in named.items() if value is not None})
    if details != "status":
        not_passing = [f"{name}: {s.error_type}" for name, s in report.components.items() if s.error_type is not None]
        if not_passing:
            body["output"] = ", ".join(not_passing)
        if unknown:
            body["notes"] = [_unmatched(unknown)]
        checks: dict[str, list[dict[str, object]]] = {}
        for name, state in report.components.items():
            checks.update(_full(name, state) if details == "full" else {name: [_named(state)]})
        body["checks"] = checks
    return json.dumps(body, separators=(",", ":")).encode()


def as_text(
    report: HealthReport, details: Details, excluded: Collection[str] = (), unknown: Collection[str] = ()
) -> bytes:
    """Render the verbose text of kube-apiserver's health endpoints."""
    lines = []
    if details != "status":
        lines = [_line(name, state, details) for name, state in report.components.items()]
        lines += [f"[+]{name} excluded: ok" for name in excluded]
        if unknown:
            lines.append(f"warn: {_unmatched(unknown)}")
    lines.append(f"{report.probe} check {'passed' if report.status.up else 'failed'}\n")
    return "\n".join(lines).encode()


def _named(state: ComponentState) -> dict[str, object]:
    entry: dict[str, object] = {"status": state.status}
    if state.error_type is not None:
        entry["errorType"] = state.error_type
    return entry


def _full(name: str, state: ComponentState) -> dict[str, list[dict[str, object]]]:
    entry = _named(state)
    entry["since"] = _time(state.since)
    if state.consecutive_failures:
        entry["consecutiveFailures"] = state.consecutive_failures
    if state.recovery is not None:
        entry["recovery"] = _recovery(state.recovery)
    result = state.result
    if result is None:
        return {name: [entry]}
    entry["time"] = _time(result.checked_at)
    if result.duration is not None:
        entry |= {"observedValue": round(result.duration * 1000, 3), "observedUnit": "ms"}
    if state.error_type is ErrorType.FAILED and result.exception_type is not None:
        entry["errorType"] = result.exception_type
    if result.message is not None:
        entry["output"] = result.message
    observed: dict[str, list[dict[str, object]]] = {
        f"{name}:{observation}": [{"observedValue": value, "time": entry["time"]}]
        for observation, value in result.observations.items()
    }
    return {name: [entry], **observed}


def _recovery(recovery: Recovery) -> dict[str, object]:
    entry: dict[str, object] = {"state": recovery.state, "attempts": recovery.attempts}
    if recovery.attempted_at is not None:
        entry |= {"action": recovery.action, "time": _time(recovery.attempted_at)}
    entry |= {key: value for key, value in (("outcome", recovery.outcome), ("output", recovery.message)) if value}
    return entry


def _line(name: str, state: ComponentState, details: Details) -> str:
    if state.status is Status.PASS:
        return f"[+]{name} ok"
    message = _message(state, state.result) if details == "full" else None
    if state.status is Status.WARN:
        return f"[+]{name} ok: {message or state.error_type}"
    return f"[-]{name} failed: {message or 'reason withheld'}"


def _message(state: ComponentState, result: CheckResult | None) -> str:
    if result is None or result.message is None or not state.decided:
        return str(state.error_type)
    return f"{result.refined_error_type}: {result.message}"


def _unmatched(names: Collection[str]) -> str:
    quoted = ", ".join(json.dumps(name) for name in names)
    return f"some health checks cannot be excluded: no matches for {quoted}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
