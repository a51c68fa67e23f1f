"""What a LivenessServer answers for a probe: the bytes that the Checker's own routes would send to anyone."""

import time
from collections.abc import Callable, Collection
from typing import Final

from otel_health import Checker
from otel_health.check import LIVEZ
from otel_health.http import render
from otel_health.http.negotiation import HEALTH_JSON, TEXT
from otel_health.http.render import Details
from otel_health.lifecycle.loop_monitor import EVENT_LOOP
from otel_health.lifecycle.serving.http1 import Answer
from otel_health.lifecycle.serving.slate import Written

Dead = Callable[[], Collection[int]]
"""Names the other workers of the service, if there are any, whose livez fails."""

_DEAD: Final = {
    HEALTH_JSON: b'{"status":"fail","output":"another worker is not alive"}',
    TEXT: b"another worker is not alive\n",
}


class Answers:
    """Renders what is known, again only when it may have changed. For one thread."""

    def __init__(self, checker: Checker, details: Details, dead: Dead = list) -> None:
        self._checker = checker
        self._details: Details = details
        self._dead = dead
        self._kept: dict[tuple[str, str], tuple[int, float, int, bytes]] = {}

    def answer(self, probe: str, media_type: str) -> Answer:
        """Return the answer to a request for this probe."""
        status, body = self._worst(probe, TEXT if media_type == TEXT else HEALTH_JSON)
        return Answer(status, media_type, body)

    def written(self, probe: str) -> Written:
        """Return all that another process needs to answer for this probe."""
        status, as_json = self._worst(probe, HEALTH_JSON)
        _, as_text = self._worst(probe, TEXT)
        return Written(status, as_json, as_text, self._believed_until(probe))

    def _worst(self, probe: str, media_type: str) -> tuple[int, bytes]:
        """What this process answers; on livez a failure of the other workers, if it has none itself."""
        status, body = self._rendered(probe, media_type)
        return (503, _DEAD[media_type]) if probe == LIVEZ and status == 200 and self._dead() else (status, body)

    def _rendered(self, probe: str, media_type: str) -> tuple[int, bytes]:
        checker = self._checker
        version = checker.version
        kept = self._kept.get((probe, media_type))
        if kept is not None and kept[0] == version and checker.now() < kept[1] and self._details != "full":
            return kept[2:]
        report = checker.report(probe)
        if media_type == TEXT:
            body = render.as_text(report, self._details)
        else:
            body = render.as_json(report, self._details, checker.service)
        status = 200 if report.status.up else 503
        self._kept[probe, media_type] = version, report.expires_at, status, body
        return status, body

    def _believed_until(self, probe: str) -> float:
        """Until when the answer holds if nobody writes another: seconds on the monotonic clock.

        No answer outlives the belief that the loop lives. On livez the others' silence is the loop's to speak for.
        """
        checker = self._checker
        livez = checker.report(LIVEZ)
        until = livez.components[EVENT_LOOP].expires_at if EVENT_LOOP in livez.components else float("-inf")
        if probe != LIVEZ:
            until = min(until, checker.report(probe).expires_at)
        return until - checker.now() + time.monotonic()
