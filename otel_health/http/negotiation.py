"""What a request asks for: a media type, and what to leave out. Of the standard library's light modules alone."""

from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

HEALTH_JSON: Final = "application/health+json"
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

MAX_EXCLUDED: Final = 32
MAX_EXCLUDED_BYTES: Final = 1024
MAX_QUERY_BYTES: Final = 8192
MAX_ACCEPT_BYTES: Final = 1024


def accepted(header: bytes) -> str:
    """Return the media type to answer an `Accept` header with; JSON where nothing that we have is wanted."""
    return _accepted(header[:MAX_ACCEPT_BYTES])


@lru_cache(maxsize=256)
def _accepted(header: bytes) -> str:
    best, best_quality = HEALTH_JSON, 0.0
    for part in header.decode("latin-1").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        offered = _OFFERED.get(name)
        quality = _quality(parameters)
        if offered is not None and quality > best_quality:
            best, best_quality = offered, quality
    return best


_OFFERED: Final = {
    "application/health+json": HEALTH_JSON,
    "application/json": JSON,
    "text/plain": TEXT,
    "application/*": HEALTH_JSON,
    "*/*": HEALTH_JSON,
    "text/html": HTML,
}


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(float(parameter[2:]), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def parse_query(query: bytes) -> tuple[bool, tuple[str, ...]] | None:
    """Return whether text is asked for, and the names to exclude; None where those are too many or too long."""
    if len(query) > MAX_QUERY_BYTES:
        return None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    names = tuple(dict.fromkeys(value for key, value in pairs if key == "exclude" and value))
    if len(names) > MAX_EXCLUDED or sum(len(name.encode()) for name in names) > MAX_EXCLUDED_BYTES:
        return None
    return any(key == "verbose" for key, _ in pairs), names
