"""Health reports as a page for people: complete without a script, live with one, and nothing from anywhere else."""

import hashlib
import math
import os
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Final, NamedTuple
from urllib.parse import quote

from otel_health.history import KEPT, Particulars, PastRun, recalled
from otel_health.http.render import Details, Service
from otel_health.report import ComponentState, ErrorType, HealthReport, Status

RELOAD_SECONDS: Final = 10
"""How often the page is loaded anew where no script keeps it up to date."""

_VERDICTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "livez": ("Alive", "Alive, with warnings", "Not alive"),
    "readyz": ("Ready", "Ready, with warnings", "Not ready"),
    "startupz": ("Started", "Started, with warnings", "Not started"),
    "healthz": ("Healthy", "Healthy, with warnings", "Not healthy"),
}
_ANY_VERDICT: Final = ("Passing", "Passing, with warnings", "Failing")
_LOOKS: Final = {"fail": "Failing", "unknown": "Not known", "warn": "Warning", "pass": "Passing"}
_BADGES: Final = {Status.PASS: "passing", Status.WARN: "warning", Status.FAIL: "failing"}
_PHRASES: Final[Mapping[ErrorType | None, str]] = {
    None: "It works",
    ErrorType.FAILED: "The check fails",
    ErrorType.TIMEOUT: "The check did not end by its deadline",
    ErrorType.HUNG: "An earlier run still hangs, so no new one is started",
    ErrorType.SATURATED: "No thread came free to run the check, so nothing is known of the component",
    ErrorType.INVALID_RESULT: "The check returned what is neither a pass nor a failure",
    ErrorType.PENDING: "Nothing is known of it yet",
    ErrorType.STALE: "The last result is too old to be believed",
    ErrorType.DEGRADED: "It works, but not as well as it should",
    ErrorType.SLOW: "It works, but slower than it should",
}
_OURS: Final = {ErrorType.TIMEOUT, ErrorType.HUNG, ErrorType.SATURATED, ErrorType.INVALID_RESULT, ErrorType.SLOW}
"""Those whose message is the library's own, and may be made a sentence."""

_NAMED: Final = 3
"""Components that the summary names before it counts the others."""

_ICONS: Final = {
    "pass": '<circle cx="8" cy="8" r="7"/><path d="m4.6 8.2 2.3 2.3 4.5-4.8"/>',
    "warn": '<path class="solid" d="M8 1.6 15.2 14H.8z"/><path d="M8 6v4m0 2v.2"/>',
    "fail": '<path class="solid" d="M5 1h6l4 4v6l-4 4H5l-4-4V5z"/><path d="m5.4 5.4 5.2 5.2m0-5.2-5.2 5.2"/>',
    "unknown": '<circle class="open" cx="8" cy="8" r="6.2"/><path class="open" d="M8 4.4V8l2.4 1.8"/>',
}
_COLOURS: Final = {Status.PASS: "#1a7f4b", Status.WARN: "#b26a00", Status.FAIL: "#c62a37"}

# Of a strip: runs stand on a line, the higher the longer they took; what hangs below the line did not pass.
_STEP: Final = 5
_LINE: Final = 24
_SHORTEST: Final = 1e-4
_LONGEST: Final = 10.0
_BELOW: Final = {Status.PASS: 0, Status.WARN: 3, Status.FAIL: 7}


class Seen(NamedTuple):
    """What those see beside a report who may see everything."""

    particulars: Callable[[str], Particulars | None]
    """Finds what is known of a component beside its state."""
    now: float
    """Seconds since the Unix epoch."""


def pieces(
    report: HealthReport,
    details: Details,
    service: Service,
    *,
    component: str | None = None,
    excluded: Collection[str] = (),
    unknown: Collection[str] = (),
    seen: Seen | None = None,
) -> Iterator[str]:
    """Render the status page, component by component.

    Args:
        report: What to render.
        details: How much of it may be seen; with less than `full` the page changes with a transition only.
        service: Who answers; seen with `full` details only.
        component: The component that alone is asked for, if one is.
        excluded: Names that the caller wanted left out, and that were.
        unknown: Names that the caller wanted left out, and that match nothing.
        seen: What is seen with `full` details only.
    """
    asked = report.probe if component is None or details == "status" else f"{report.probe}/{component}"
    verdict = _verdict(report, component)
    who = _name(service) if details == "full" else ""
    style, script = _assets()
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{verdict}: {escape(f'{who} {asked}'.strip())}</title>"
        f'<link id="icon" rel="icon" href="{_favicon(report.status)}"><style>{style}</style>'
        f'<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript></head>\n'
        f'<body><div id="page" class="{report.status}"><header aria-live="polite">'
        f'<p class="asked">{escape(who)} <code>{escape(asked)}</code></p>'
        f"<h1>{_icon(report.status)}<span>{verdict}</span></h1>"
    )
    if details != "status" and component is None:
        yield f'<p class="summary">{_summary(report)}</p>{_notes(excluded, unknown)}'
    yield "</header>\n<main>"
    if details != "status":
        yield from _sections(report, seen)
    yield "</main>\n"
    if seen is not None:
        yield f"<footer><p>As it was at {_time(seen.now)}. Times are UTC.</p></footer>"
    yield f"</div>\n<script>{script}</script></body></html>\n"


@cache
def headers() -> tuple[tuple[bytes, bytes], ...]:
    """What is sent with the page: it loads nothing, is framed by nobody, and runs and looks as it was written here."""
    style, script = (b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in _assets())
    policy = (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"vary", b"accept"),
    )


@cache
def _assets() -> tuple[str, str]:
    """The style and the script, read when the first page is made."""
    found = []
    for kind in ("css", "js"):
        with open(f"{os.path.splitext(__file__)[0]}.{kind}", encoding="utf-8") as asset:
            found.append(asset.read())
    style, script = found
    return style, script


# What it means in words.


def _verdict(report: HealthReport, component: str | None) -> str:
    words = _VERDICTS.get(report.probe, _ANY_VERDICT) if component is None else _ANY_VERDICT
    passing, warning, failing = words
    return {Status.PASS: passing, Status.WARN: warning, Status.FAIL: failing}[report.status]


def _summary(report: HealthReport) -> str:
    """Who does not pass, by name where they are few."""
    total = len(report.components)
    if total == 0:
        return "No component is asked: that there is an answer is all there is to know."
    told = []
    for look, title in _LOOKS.items():
        names = [escape(name) for name, state in report.components.items() if _look(state) == look]
        if names and look != "pass":
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            told.append(f"{len(names)} {title.lower()}: <b>{'</b>, <b>'.join(names[:_NAMED])}</b>{more}")
    if told:
        return f"{'; '.join(told)}." if total == 1 else f"Of {total} components, {'; '.join(told)}."
    return "The one component passes." if total == 1 else f"All {total} components pass."


def _notes(excluded: Collection[str], unknown: Collection[str]) -> str:
    left_out = f'<p class="note">Left out, as asked: {escape(", ".join(excluded))}.</p>' if excluded else ""
    unmatched = f'<p class="note">Nothing is named {escape(", ".join(unknown))}.</p>' if unknown else ""
    return left_out + unmatched


def _says(state: ComponentState) -> str:
    """What a state means, with what the last run said; nothing where all is well."""
    phrase, result = _PHRASES[state.error_type], state.result
    if result is None or not state.decided or (state.status is result.status is Status.PASS):
        return ""
    said, kind = escape(result.message or ""), escape(result.exception_type or "")
    if result.status is state.status:
        if said and result.error_type in _OURS:
            return f"{said[0].upper()}{said[1:]}."
        return ": ".join(filter(None, (kind and f"<b>{kind}</b>", said)))
    if state.status.up and not result.status.up:
        return (
            f"{phrase}, but the last {_runs(state.consecutive_failures)} failed: {said or kind or result.error_type}."
        )
    return f"{phrase}, though the last {_runs(state.consecutive_successes)} passed: more have to."


def _runs(number: int) -> str:
    return "run" if number == 1 else f"{number} runs"


def _name(service: Service) -> str:
    return " ".join(filter(None, (service.service_id, service.version, service.release_id)))


# The components.


def _sections(report: HealthReport, seen: Seen | None) -> Iterator[str]:
    for look, title in _LOOKS.items():
        found = [(name, state) for name, state in report.components.items() if _look(state) == look]
        if not found:
            continue
        yield f'<section aria-labelledby="of-{look}" id="{look}">'
        yield f'<h2 id="of-{look}">{title} <span class="count">{len(found)}</span></h2>\n<ul>'
        for name, state in found:
            known = seen and seen.particulars(name)
            yield _card(name, state) if seen is None or known is None else _full_card(name, state, known, seen.now)
        yield "</ul></section>\n"


def _look(state: ComponentState) -> str:
    return state.status.value if state.decided else "unknown"


def _card(name: str, state: ComponentState, says: str = "", more: str = "") -> str:
    look = _look(state)
    badge = _BADGES[state.status] if state.decided else state.error_type
    if not says and look != "pass":
        says = f"{_PHRASES[state.error_type]}."
    said = f'<p class="says">{says}</p>' if says else ""
    return (
        f'<li id="c-{escape(name)}" class="{look}"><h3>{_icon(look)}<span class="name">{escape(name)}</span> '
        f'<span class="badge">{badge}</span></h3>{said}{more}</li>\n'
    )


def _full_card(name: str, state: ComponentState, known: Particulars, now: float) -> str:
    observed = _observed(state.result.observations) if state.result is not None else ""
    strip = _strip(known.runs) if known.runs else ""
    return _card(name, state, _says(state), f'<p class="facts">{_facts(state, known, now)}</p>{observed}{strip}')


def _facts(state: ComponentState, known: Particulars, now: float) -> str:
    told = [f"For {_lasted(now - state.since)}, since {_time(state.since, now)}"]
    if not state.status.up:
        if state.consecutive_failures > 1:
            told.append(f"{state.consecutive_failures} failures in a row")
        last = "never passed" if known.last_success is None else f"last success {_time(known.last_success, now)}"
        told.append(last)
    if not known.critical:
        told.append("not critical")
    result = state.result
    if result is not None:
        took = "" if result.duration is None else f", took {_duration(result.duration)}"
        told.append(f"checked {_time(result.checked_at, now)}{took}")
    return "; ".join(told) + "."


def _strip(runs: bytes) -> str:
    """The last runs as a drawing, and in words for those who do not see it."""
    past = recalled(runs)
    drawn: dict[Status, list[str]] = {}
    for place, run in enumerate(past, KEPT - len(past)):
        drawn.setdefault(run.status, []).append(f"M{place * _STEP + 2} {_bar(run)}")
    paths = "".join([f'<path class="{status}" d="{"".join(bars)}"/>' for status, bars in drawn.items()])
    counts = ", ".join([f"{len(drawn[status])} {badge}" for status, badge in _BADGES.items() if status in drawn])
    durations = [run.duration for run in past if run.duration is not None]
    spread = f"; about {_duration(min(durations))} to {_duration(max(durations))}" if durations else ""
    words = f"last {_runs(len(past))}: {counts}{spread}"
    return (
        f'<svg class="runs" role="img" aria-label="{words}" viewBox="0 0 {KEPT * _STEP} 32"><title>{words}</title>'
        f'<path class="line" d="M0 {_LINE}H{KEPT * _STEP}"/>{paths}</svg>'
    )


@cache
def _bar(run: PastRun) -> str:
    """One run, from what hangs below the line up to the order of magnitude of what it took."""
    height = 0
    if run.duration is not None:
        share = math.log(max(run.duration, _SHORTEST) / _SHORTEST) / math.log(_LONGEST / _SHORTEST)
        height = 2 + round(min(share, 1.0) * (_LINE - 4))
    return f"{_LINE + _BELOW[run.status]}v-{height + _BELOW[run.status]}"


def _observed(observations: Mapping[str, float]) -> str:
    if not observations:
        return ""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_number(value)}</dd></div>" for name, value in observations.items()
    )
    return f"<dl>{pairs}</dl>"


def _icon(look: str) -> str:
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{_ICONS[look]}</svg>'


def _favicon(status: Status) -> str:
    drawing = _ICONS[status].replace('class="solid" ', "")
    return "data:image/svg+xml," + quote(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><g fill="{_COLOURS[status]}" '
        f'stroke="#fff" stroke-width="1.6">{drawing}</g></svg>'
    )


# Text, numbers and times.


# As html.escape; its module, and the others that this one does without, would take 5 ms of every import.
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def escape(text: str) -> str:
    """Return the text as it may stand in markup, and in an attribute's value."""
    return text.translate(_ESCAPES)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.4g}"


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _lasted(seconds: float) -> str:
    """How long a state has lasted, to two units at most."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes = rest // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _time(seconds: float, now: float | None = None) -> str:
    """A moment in UTC; with its day where that is another one than today."""
    moment = datetime.fromtimestamp(seconds, UTC)
    other_day = now is not None and moment.date() != datetime.fromtimestamp(now, UTC).date()
    shown = moment.strftime("%Y-%m-%d %H:%M:%S" if other_day else "%H:%M:%S")
    return f'<time datetime="{moment.isoformat(timespec="milliseconds")}">{shown}</time>'
