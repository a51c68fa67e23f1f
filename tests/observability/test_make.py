"""`make observability`: data flows, a broken service pages, and Ctrl-C leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.stack import PATIENCE, comes_true
from tests.servers import answers, free_port, program

ROOT = Path(__file__).parent.parent.parent


class Stack:
    """The script in a process of its own, with what it prints."""

    def __init__(self, directory: Path, **ports: str) -> None:
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "observability")],
                env={**os.environ, "PYTHONPATH": str(ROOT), **ports},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def says(self, words: str) -> bool:
        """Whether it has printed this."""
        return words in self.output.read_text()


@pytest.fixture
def ports() -> dict[str, str]:
    """Where its servers are to listen."""
    return {name: str(free_port()) for name in ("PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")}


@pytest.fixture
def stack(tmp_path: Path, ports: dict[str, str]) -> Iterator[Stack]:
    """The stack, started."""
    program("prometheus", "Prometheus")
    program("prometheus-alertmanager", "Alertmanager")
    started = Stack(tmp_path, **ports)
    yield started
    started.process.terminate()
    started.process.wait()


def test_it_pages_whoever_breaks_the_service_and_stops_cleanly(
    stack: Stack, ports: dict[str, str], tmp_path: Path
) -> None:
    """As its guide says, which is printed once data flows; a second one is told that the ports are taken."""
    comes_true(lambda: stack.says("Ctrl-C ends it all."), seconds=2 * PATIENCE)
    guide = stack.output.read_text()
    assert all(f"127.0.0.1:{port}" in guide for port in ports.values())
    database = Path(re.findall(r"break it  mv (\S+) ", guide)[0])

    (tmp_path / "second").mkdir()
    second = Stack(tmp_path / "second", **ports)
    shutil.move(database, f"{database}.away")
    comes_true(lambda: stack.says("page: OtelHealthComponentDown: database fails on 127.0.0.1"), seconds=2 * PATIENCE)

    assert second.process.wait(PATIENCE) == 1
    assert second.says("choose another one: ALERTMANAGER_PORT=<port> make observability")

    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(PATIENCE) == 0
    assert stack.says("observability: stopped")
    assert not any(answers(int(port)) for port in ports.values())
    assert not database.parent.exists()
