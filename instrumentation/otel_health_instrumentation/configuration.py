"""What the instrumentation may be told: by an operator's environment, a file, or arguments."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, get_args

from otel_health_instrumentation.clients import TECHNOLOGIES
from otel_health_instrumentation.guard import LOGGER

Trace = Literal["failures", "always", "never"]
Details = Literal["status", "names", "full"]

PREFIX: Final = "OTEL_HEALTH_"
NONE: Final = "none"

LONGEST: Final = 1e9
"""Seconds, of which some thirty years are; for what takes longer nobody can wait (`threading.TIMEOUT_MAX`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The options of `HealthInstrumentor().instrument()`, and of `health:` in `OTEL_CONFIG_FILE`.

    What is None was not said. Each may also stand in the environment, as `OTEL_HEALTH_<NAME>`.

    Args:
        timeout: Seconds that one run of a check may take.
        interval: Seconds between two runs of a check.
        answer_within: Seconds in which a probe answers.
        failure_threshold: Consecutive failures before a component fails.
        success_threshold: Consecutive successes before it passes again.
        tracebacks: Whether logs and spans may hold tracebacks.
        trace: Which runs leave a span.
        service_id: Who health+json says it is; `OTEL_SERVICE_NAME` where nothing is said.
        version: The same, as is `release_id`.
        prefix: What stands before the paths of the probes, such as `/health`.
        details: What anyone may see.
        token: Lifts whoever sends it as a bearer token to full details.
        metrics: The path of the metrics; `none` for no such path.
        workers: Whether the workers of the service know of each other.
        liveness_port: A port of its own for `livez`, which is answered while the application is stuck.
        clients: The technologies whose clients become checks; all where nothing is said, `none` for none.
        critical: The names, or patterns of names, of those that fail `readyz` and not only warn.
        passive_for: Seconds for which a client's own traffic proves what its check would.
    """

    timeout: float | None = None
    interval: float | None = None
    answer_within: float | None = None
    failure_threshold: int | None = None
    success_threshold: int | None = None
    tracebacks: bool | None = None
    trace: str | None = None
    service_id: str | None = None
    version: str | None = None
    release_id: str | None = None
    prefix: str | None = None
    details: str | None = None
    token: str | None = None
    metrics: str | None = None
    workers: bool | None = None
    liveness_port: int | None = None
    clients: list[str] | None = None
    critical: list[str] | None = None
    passive_for: float | None = None


def configured(options: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> Configuration:
    """Return what was said: arguments first, then the environment.

    What makes no sense is named in a log line, and is as if it had not been said.
    """
    said: dict[str, object] = {}
    for name in options:
        if name not in READERS:
            LOGGER.warning("health: there is no option %r; there are %s", name, ", ".join(READERS))
    for variable in environment:
        _look_for_slip(variable)
    for name, read in READERS.items():
        variable = f"{PREFIX}{name.upper()}"
        if options.get(name) is not None:
            source, value = name, options[name]
        elif environment.get(variable, "").strip():
            source, value = variable, environment[variable].strip()
        else:
            continue
        try:
            said[name] = read(value)
        except ValueError as error:
            # A token is a secret, whatever is wrong with it.
            shown = "..." if name == "token" else repr(value)
            LOGGER.warning("health: %s=%s %s; the default is used", source, shown, error)
    return Configuration(**said)  # type: ignore[arg-type] # Each reader returns what its field holds.


def _look_for_slip(variable: str) -> None:
    """Say it where a variable is nearly one of ours: nobody else would."""
    name = variable.removeprefix(PREFIX).lower()
    if variable.startswith(PREFIX) and name not in READERS:
        for close in get_close_matches(name, READERS, n=1, cutoff=0.8):
            LOGGER.warning("health: there is no %s; did you mean %s%s?", variable, PREFIX, close.upper())


def _seconds(value: object) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < LONGEST:
        raise ValueError("must be a number of seconds above 0, and below a thousand million")
    return seconds


def _whole(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        text = "" if isinstance(value, bool) else str(value)
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return read


def _truth(value: object) -> bool:
    word = str(value).lower()
    if word not in ("true", "false"):
        raise ValueError("must be true or false")
    return word == "true"


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return read


def _text(value: object) -> str:
    return str(value)


def _token(value: object) -> str:
    if not 16 <= len(str(value).encode()) <= 4096:
        raise ValueError("must have 16 bytes or more; secrets.token_urlsafe() makes a good one")
    return str(value)


def _path(value: object) -> str:
    if not str(value).startswith("/") or str(value).endswith("/"):
        raise ValueError("must begin with '/' and not end with it, such as /health")
    return str(value)


def _path_or_none(value: object) -> str:
    if value != NONE and (not str(value).startswith("/") or str(value).endswith("/") or "{" in str(value)):
        raise ValueError("must be none, or begin with '/' and not end with it, such as /metrics, without parameters")
    return str(value)


def _names(value: object) -> list[str]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise ValueError("must be names with commas between them")
    return [name.strip() for name in listed if name.strip()]


def _technologies(value: object) -> list[str]:
    names = _names(value)
    if names != [NONE] and not TECHNOLOGIES.keys() >= set(names):
        raise ValueError(f"must be none, or of {', '.join(sorted(TECHNOLOGIES))}")
    return names


READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "timeout": _seconds,
    "interval": _seconds,
    "answer_within": _seconds,
    "failure_threshold": _whole(1, 1_000_000),
    "success_threshold": _whole(1, 1_000_000),
    "tracebacks": _truth,
    "trace": _one_of(*get_args(Trace)),
    "service_id": _text,
    "version": _text,
    "release_id": _text,
    "prefix": _path,
    "details": _one_of(*get_args(Details)),
    "token": _token,
    "metrics": _path_or_none,
    "workers": _truth,
    "liveness_port": _whole(1, 65535),
    "clients": _technologies,
    "critical": _names,
    "passive_for": _seconds,
}
"""How each option is read, from whatever form it was said in."""
