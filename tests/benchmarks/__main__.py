"""Take every figure, print them as tables, and write them where the README and the docs show them."""

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import tables
from tests.benchmarks.chart import chart

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("rounds", "inprocess", "scrape", "costs", "faults", "probes", "zero_code", "clients")
"""Each is a module, and is run in an interpreter of its own, so that none inherits the garbage of another."""
MARKED: Final = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def taken(part: str, *, quick: bool) -> Any:
    """What one part finds, in an interpreter of its own."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.benchmarks", "--part", part, *(["--quick"] if quick else [])]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"{part} took {time.monotonic() - begun:.0f} s", flush=True)
    return json.loads(said)


def cpu() -> str:
    """The processor's name, as far as the machine tells."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.machine()


def write(found: tables.Figures) -> None:
    """Put the figures, the tables and the chart in their places."""
    docs = ROOT / "docs"
    (docs / "benchmarks.json").write_text(json.dumps(found, indent=2) + "\n")
    (docs / "benchmarks.svg").write_text(chart(found["probes"]["kept_open"]))
    for page, text in ((ROOT / "README.md", tables.short(found)), (docs / "benchmarks.md", tables.full(found))):
        page.write_text(marked(page.read_text(), text))


def marked(page: str, text: str) -> str:
    """The page with this text between its marks.

    Raises:
        ValueError: It has none.
    """
    replaced, times = MARKED.subn(lambda match: match[1] + text + match[2], page)
    if times != 1:
        raise ValueError("a page of figures has one `<!-- figures -->` and one `<!-- end of figures -->` after it")
    return replaced


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    parser.add_argument("--part", choices=PARTS, help="take one part alone and print it as JSON")
    options = parser.parse_args()
    if options.part is not None:
        part = importlib.import_module(f"tests.benchmarks.{options.part}")
        print(json.dumps(part.figures(quick=options.quick), indent=2))
        return
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu(),
        **{part: taken(part, quick=options.quick) for part in PARTS},
    }
    print(tables.short(found), tables.full(found), sep="\n")
    if options.quick:
        chart(found["probes"]["kept_open"])
    else:
        write(found)
    if missing := found["probes"]["missing"]:
        print("not installed, left out:", ", ".join(missing))


if __name__ == "__main__":
    main()
