"""Serving by a process of its own: this side writes what is to be answered, and sees to it that the other lives."""

import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from typing import Final

from otel_health import Checker
from otel_health.http.render import Details
from otel_health.lifecycle.serving.answers import Answers, Dead
from otel_health.lifecycle.serving.child import START_SECONDS, Child
from otel_health.lifecycle.serving.slate import Slate

TICK: Final = 0.25
"""Seconds between two writings."""

FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 30.0
"""Seconds before the next process is started, doubled from one death to the next."""

STABLE_SECONDS: Final = 60.0
"""How long a process lives before its death is a first one again."""


class ByProcess:
    """Keeps a slate written and a process serving it. Everything happens in the thread that calls `serve`.

    Args:
        checker: Whose probes are answered.
        probes: Which of them.
        details: What anyone may see.
        dead: Names the other workers whose livez fails.
    """

    def __init__(self, checker: Checker, probes: Collection[str], details: Details, dead: Dead = list) -> None:
        self._checker = checker
        self._probes = probes
        self._answers = Answers(checker, details, dead)
        self._brief = Answers(checker, "status", dead)
        self._child: Child | None = None

    def serve(self, listening: socket.socket, wake: socket.socket, started: Callable[[], None]) -> None:
        """Have a process serve on a listening socket until `wake` is closed.

        Raises:
            RuntimeError: The process did not start.
        """
        slate, parent = Slate(_nameless_file()), os.getpid()
        wake.settimeout(TICK)
        try:
            self._write(slate)
            self._child = Child(listening, slate, parent)
            if not self._child.starts():
                raise RuntimeError(
                    f"LivenessServer: the process {self._child.pid} did not answer within {START_SECONDS:g} s; look at "
                    "what it wrote to stderr, or use mode='thread'"
                )
            started()
            self._keep(listening, wake, slate, parent)
        finally:
            if self._child is not None:
                self._child.stop()
                self._child = None
            slate.close()

    def abandon(self) -> None:
        """Close what a forked child has of it, which would keep the process from seeing our end."""
        if self._child is not None:
            self._child.channel.close()

    def _keep(self, listening: socket.socket, wake: socket.socket, slate: Slate, parent: int) -> None:
        born, delay, due = time.monotonic(), FIRST_DELAY, 0.0
        while not _closed(wake):
            self._write(slate)
            now = time.monotonic()
            if self._child is not None and (code := self._child.ended()) is not None:
                delay = FIRST_DELAY if now - born > STABLE_SECONDS else min(2 * delay, LAST_DELAY)
                due = now + delay
                self._checker.note(
                    logging.WARNING,
                    "the process %d, which answers probes, ended with %d; another is started in %.1f s",
                    self._child.pid,
                    code,
                    delay,
                )
                self._child.stop()
                self._child = None
            if self._child is None and now >= due:
                try:
                    self._child, born = Child(listening, slate, parent), now
                except OSError as error:
                    delay = min(2 * delay, LAST_DELAY)
                    due = now + delay
                    self._checker.fault("the process that answers probes cannot be started: %s", error.strerror)

    def _write(self, slate: Slate) -> None:
        """Write every probe's answer; the verdicts alone, from then on, where the rest does not fit."""
        if slate.write({probe: self._answers.written(probe) for probe in self._probes}):
            return
        self._checker.fault("there are too many components for the process that answers probes; it shows verdicts only")
        self._answers = self._brief
        slate.write({probe: self._answers.written(probe) for probe in self._probes})


def _nameless_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("otel_health")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _closed(wake: socket.socket) -> bool:
    """Wait for a tick; whether the other end was closed meanwhile."""
    try:
        return not wake.recv(1)
    except TimeoutError:
        return False
