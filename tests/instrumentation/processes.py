"""Programs in processes of their own, where nothing was imported, hooked or configured before."""

import os
import subprocess
import sys
from typing import Final

from tests.services import ROOT

IMPORTED: Final = os.pathsep.join([str(ROOT), str(ROOT / "instrumentation")])
"""What such a program finds before what is installed."""


def in_fresh_interpreter(program: str, **environment: str) -> str:
    """Return what this program prints in an interpreter of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": IMPORTED, **environment},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()
