"""The figures as they are read: a short table for the README, and all of them with their goals for the docs."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from tests.benchmarks import peers
from tests.benchmarks.faults import CONCURRENT

Figures = Mapping[str, Any]
"""What the benchmarks found, as it is written to JSON: numbers of components are strings."""

Cells = tuple[str, ...]
"""One line of a table."""

NO_PEER: Final = "no other library was installed"


class Row(NamedTuple):
    """One figure: what it is and beside what, what was measured, and the goal."""

    figure: str
    measured: float
    goal: float
    least: bool = False
    """Whether the goal is the least that will do, instead of the most."""

    @property
    def held(self) -> bool:
        """Whether the goal is reached."""
        return self.measured >= self.goal if self.least else self.measured <= self.goal


def rows(found: Figures) -> list[Row]:
    """Every figure that has a goal."""
    table = []
    kept, each = found["probes"]["kept_open"], found["probes"]["one_each"]
    for number in [number for number in kept if int(number) <= 100]:
        for kind in ("routes", "text"):
            what = f"rate of a probe, {kind}, {_counted(number)}: share of bare Starlette's"
            table.append(Row(what, kept[number][kind]["of_starlette"], 1.40, least=True))
    for number in [number for number in kept if int(number) <= 100]:
        what = f"rate of a probe, `asgi()`, {_counted(number)}: share of raw ASGI's"
        table.append(Row(what, kept[number]["asgi"]["of_limit"], 0.85, least=True))
    for number in kept:
        for kind in ("routes", "text", "short"):
            what = f"rate of a probe, {kind}, {_counted(number)}: share of constant bytes'"
            table.append(Row(what, kept[number][kind]["of_limit"], 0.90, least=True))
    for number in each:
        what = f"rate of a probe, a connection each, {_counted(number)}: share of constant bytes'"
        table.append(Row(what, each[number]["routes"]["of_limit"], 0.95, least=True))
    if "fast-healthchecks" in kept.get("1000", {}):
        fast = kept["1000"]["fast-healthchecks"]["cpu_us"] / kept["1000"]["routes"]["cpu_us"]
        table.append(Row("rate of a probe, 1,000 components: times fast-healthchecks'", fast, 300, least=True))
    for number in [number for number in found["inprocess"] if int(number) <= 100]:
        for kind in ("routes, on demand", "routes, on demand, text"):
            what = f"rate of a probe in process, {kind}, {_counted(number)}: share of bare Starlette's"
            table.append(Row(what, found["inprocess"][number][kind]["of_starlette"], 1.40, least=True))
    eager = [int(part) for part in found["python"].split(".")[:2]] >= [3, 12]
    for kind, goal in (("at once", 0.8 if eager else 1.0), ("suspending", 1.0), ("sync", 1.0)):
        table.append(Row(f"a round of checks, {kind}: times the bare primitive", found["rounds"][kind]["ratio"], goal))
    costs, scrape, own = found["costs"], found["scrape"], found["zero_code"]
    noise, wsgi_noise = own["noise_high"], own["wsgi_noise_high"]
    shared = found["faults"]["probes_per_run"]["demand"]
    return [
        *table,
        Row("concurrent probes for each run of a check, of 200", shared, 200, least=True),
        Row("answer while a check hangs, on demand: milliseconds", found["faults"]["hanging_ms"]["demand"], 1000),
        Row("answer while it swallows its cancellation: milliseconds", found["faults"]["stubborn_ms"]["demand"], 1000),
        Row("scrape of 1,000 components: times the exporter's default", scrape["ratio"], 0.5),
        Row("the loop's longest stall by that scrape: milliseconds", scrape["stall_ms"], 10),
        Row("the loop's longest turn in a round of 5,000 checks: milliseconds", costs["stall"]["stall_ms"], 10),
        Row("import: times its floor", costs["import_time"]["ratio"], 1.2),
        Row("memory for each component: KiB", costs["memory"]["kib_per_component"], 3),
        Row("a request of the application's own, instrumented: times as it is; goal: noise", own["ratio"], noise),
        Row("the same of a WSGI application", own["wsgi_ratio"], wsgi_noise),
        Row(
            "a command of a watched client: times as it is", found["clients"]["watched"], found["clients"]["noise_high"]
        ),
        Row("the same with passive health: times as it is", found["clients"]["followed"], 1.10),
        Row("10,000 checks each 10 s: percent of a core", costs["background"]["core_percent"], 5),
    ]


def short(found: Figures) -> str:
    """The README's table: ours, and what stands beside it."""
    head = ("what it costs", "otel_health", "beside it")
    where = f"{_taken(found)} by `make bench`; [how, and every figure](docs/benchmarks.md)."
    return "\n".join(
        [*_table(head, [*_rates(found["probes"]), *_faults(found["faults"]), *_costs(found)]), "", where, ""]
    )


def _rates(probes: Figures) -> list[Cells]:
    kept, each = probes["kept_open"], probes["one_each"]["100"]
    lines = [
        (
            f"probes per second, {_counted(number)}; a bare Starlette route is 100 %",
            f"**{_percent(row['routes'])}**",
            f"raw ASGI {_percent(row['raw'])}; {_best_peer(row)}",
        )
        for number, row in kept.items()
        if number in ("1", "100", "1000")
    ]
    if "10000" in kept:
        row = kept["10000"]
        limit = f"constant bytes {_percent(row['constant short'])}"
        lines.append(('the same with 10,000 components, `details="status"`', f"**{_percent(row['short'])}**", limit))
    limit = f"constant bytes {_percent(each['constant'])}; {_best_peer(each)}"
    ours = f"**{_percent(each['routes'])}**"
    return [*lines, ("the same with 100 components, a connection for each probe as kubelet does", ours, limit)]


def _faults(faults: Figures) -> list[Cells]:
    runs = {kind: CONCURRENT / shared for kind, shared in faults["probes_per_run"].items()}
    others = [count for kind, count in runs.items() if kind in peers.APPS]
    beside = f"{min(others):.0f} to {max(others):.0f}" if others else NO_PEER
    if others and min(others) == max(others):
        beside = f"each other library {others[0]:.0f}"
    hanging = f"**{faults['hanging_ms']['demand'] / 1e3:.1f} s**"
    return [
        (f"runs of a check for {CONCURRENT} concurrent probes", f"**{runs['demand']:.0f}**", beside),
        ("first answer while a check hangs", hanging, _hung_peers(faults)),
    ]


def _costs(found: Figures) -> list[Cells]:
    rounds, scrape, costs = found["rounds"], found["scrape"], found["costs"]
    finished, waited, imported = rounds["at once"], rounds["suspending"], costs["import_time"]
    memory, background = costs["memory"]["kib_per_component"], costs["background"]["core_percent"]
    return [
        (
            "a run of a check that finishes at once; that waits",
            f"**{finished['ours_us']:.0f} µs; {waited['ours_us']:.0f} µs**",
            f"bare tasks, each with a timeout and a histogram: {finished['primitive_us']:.0f} µs; "
            f"{waited['primitive_us']:.0f} µs",
        ),
        (
            "scrape of 1,000 components; the loop's stall",
            f"**{scrape['ours_ms']:.0f} ms; {scrape['stall_ms']:.0f} ms**",
            f"the exporter's default for a gauge, a histogram and a counter each: {scrape['default_ms']:.0f} ms",
        ),
        ("import", f"**{imported['ours_ms']:.0f} ms**", f"what it has to import: {imported['floor_ms']:.0f} ms"),
        (
            "memory for each component; 10,000 checks each 10 s",
            f"**{memory:.1f} KiB; {background:.1f} % of a core**",
            "",
        ),
    ]


def full(found: Figures) -> str:
    """The docs' tables: every goal, every rate."""
    goals = [
        (
            row.figure,
            f"{row.measured:.2f}",
            f"{'at least' if row.least else 'at most'} {row.goal:.4g}{'' if row.held else ' (**missed**)'}",
        )
        for row in rows(found)
    ]
    lines = [_taken(found) + ".", "", *_table(("figure", "measured", "goal"), goals)]
    for title, table in (
        ("Connections kept open", found["probes"]["kept_open"]),
        ("A connection for each probe", found["probes"]["one_each"]),
        ("In process", found["inprocess"]),
    ):
        numbers = list(table)
        cells = [
            (kind, *(f"{table[n][kind]['cpu_us']:,.1f}" if kind in table[n] else "" for n in numbers))
            for kind in table[numbers[0]]
        ]
        caption = f"{title}: microseconds of processor time for each probe, by the number of components."
        lines += ["", caption, "", *_table(("probe of", *(f"{int(number):,}" for number in numbers)), cells)]
    versions = ", ".join(f"{kind} {version}" for kind, version in found["probes"]["versions"].items())
    lines += ["", f"Other libraries: {versions or 'none was installed'}.", ""]
    return "\n".join(lines)


def _table(head: Cells, lines: Iterable[Cells]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *lines)]


def _counted(number: str) -> str:
    return f"{int(number):,} component{'' if number == '1' else 's'}"


def _taken(found: Figures) -> str:
    return f"Taken on {found['date']} with Python {found['python']} on {found['cores']} cores ({found['cpu']})"


def _percent(row: Mapping[str, float]) -> str:
    percent = row["of_starlette"] * 100
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def _best_peer(row: Mapping[str, Mapping[str, float]]) -> str:
    others = [kind for kind in peers.APPS if kind in row]
    if not others:
        return NO_PEER
    best = max(others, key=lambda kind: row[kind]["of_starlette"])
    return f"next best library ({best}) {_percent(row[best])}"


def _hung_peers(faults: Figures) -> str:
    answers = {kind: ms for kind, ms in faults["hanging_ms"].items() if kind in peers.APPS}
    if not answers:
        return NO_PEER
    said = [f"{kind} {ms / 1e3:.0f} s" for kind, ms in answers.items() if ms is not None]
    silent = [kind for kind, ms in answers.items() if ms is None]
    if silent:
        said.append(f"not within {faults['patience_ms'] / 1e3:.0f} s: {', '.join(silent)}")
    return "; ".join(said)
