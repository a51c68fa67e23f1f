"""Take every figure, print them as one table, and write them where the README and the docs show them."""

import argparse
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import costs, probes, rounds, scrape

ROOT = Path(__file__).parent.parent.parent
MARKED = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)


class Row(NamedTuple):
    """One figure: what it says, what it is measured against, and the goal."""

    figure: str
    measured: str
    goal: str
    held: bool


def rows(found: dict[str, Any]) -> list[Row]:
    """The figures as they are read."""
    table = []
    kept, each = found["probes"]["kept_open"], found["probes"]["one_each"]
    for kind, asked in (("routes", "JSON"), ("text", "text"), ("demand", "JSON, on demand")):
        table += [
            _at_least(f"a probe's rate, {asked}, {number} components: bare Starlette", kept[number][kind], 1.40)
            for number in (1, 10, 100)
        ]
    for number in (1, 10, 100):
        table.append(_at_least(f"`asgi()`, {number} components: raw ASGI", kept[number]["asgi/raw"], 0.85))
    for number in (1, 100, 1_000, 10_000):
        row = f"a probe's rate, {number:,} components: constant bytes of the same length"
        table.append(_at_least(row, kept[number]["routes/constant"], 0.90))
    for number in (1, 100):
        row = f"a connection for each probe, {number} components: constant bytes"
        table.append(_at_least(row, each[number]["routes/constant"], 0.95))
    if "fast-healthchecks" in kept[1_000]:
        row = "a probe's rate, 1,000 components: fast-healthchecks"
        table.append(_at_least(row, kept[1_000]["routes"] / kept[1_000]["fast-healthchecks"], 300))
    for kind, goal in (("at once", 1.0), ("suspending", 1.0), ("sync", 1.0)):
        table.append(_at_most(f"round of 1,000 checks, {kind}: bare primitive", found["rounds"][kind]["ratio"], goal))
    shared = found["costs"]
    table.append(_at_least("concurrent probes for each run", shared["coalescing"]["probes_per_run"], 200))
    table.append(_at_most("scrape of 1,000 components: exporter's default", found["scrape"]["all"]["ratio"], 0.5))
    table.append(_at_most("loop stall by that scrape, ms", found["scrape"]["all"]["stall_ms"], 10))
    table.append(_at_most("loop stall by a round of 5,000 checks, ms", shared["stall"]["stall_ms"], 10))
    table.append(_at_most("import: its floor", shared["import_time"]["ratio"], 1.2))
    table.append(_at_most("memory for each component, KiB", shared["memory"]["kib_per_component"], 3))
    table.append(_at_most("10,000 checks each 10 s, % of a core", shared["background"]["core_percent"], 5))
    return table


def _at_least(figure: str, measured: float, goal: float) -> Row:
    return Row(figure, f"{measured:.2f}", f"at least {goal:g}", measured >= goal)


def _at_most(figure: str, measured: float, goal: float) -> Row:
    return Row(figure, f"{measured:.2f}", f"at most {goal:g}", measured <= goal)


def markdown(table: list[Row], machine: str) -> str:
    """The table as the README shows it: missed goals are shown as missed."""
    lines = [
        f"Measured {machine}; `make bench` prints them anew.",
        "",
        "| figure | measured | goal |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {row.figure} | {row.measured} | {row.goal}{'' if row.held else ' (missed)'} |" for row in table]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, nothing is written")
    quick = parser.parse_args().quick
    found: dict[str, Any] = {
        "rounds": rounds.figures(),
        "scrape": {"all": scrape.figures()},
        "costs": {
            "import_time": costs.import_time(),
            "memory": costs.memory(),
            "coalescing": costs.coalescing(),
            "stall": costs.stall(),
            "background": costs.background(seconds=5.0 if quick else 20.0),
        },
        "probes": probes.figures(seconds=1.0 if quick else 3.0, rounds=1 if quick else 3),
    }
    table = rows(found)
    today = datetime.now(UTC).date().isoformat()
    text = markdown(table, f"on {today} with Python {platform.python_version()} on two shared cores")
    print(text)
    if not quick:
        (ROOT / "docs" / "benchmarks.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        readme = ROOT / "README.md"
        readme.write_text(MARKED.sub(lambda match: match[1] + text + match[2], readme.read_text()))


if __name__ == "__main__":
    main()
