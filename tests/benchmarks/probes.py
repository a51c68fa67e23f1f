"""What a probe over HTTP costs the server, beside bare Starlette, constant bytes and other libraries.

All servers of one number of components run at once, and take their turns in short slices. A ratio is taken within a
round, of the processor time for each request; what wrk makes of it is noted as well.
"""

import re
import shutil
import subprocess
from functools import partial
from importlib import metadata
from typing import Any, Final

from tests.benchmarks import peers
from tests.benchmarks.interleaved import in_turns, median, ratio
from tests.benchmarks.servers import CONNECTIONS, Client, Server, apart, serving

OURS: Final = {
    "raw": ("raw", "/readyz"),
    "asgi": ("asgi", "/readyz"),
    "starlette": ("starlette", "/readyz"),
    "constant": ("constant", "/readyz"),
    "routes": ("routes", "/readyz"),
    "constant text": ("constant text", "/readyz"),
    "text": ("routes", "/readyz?verbose"),
    "constant short": ("constant short", "/readyz"),
    "short": ("short", "/readyz"),
}
"""Each kind's application and what is asked of it; what is compared stands side by side."""
LIMITS: Final = {"asgi": "raw", "routes": "constant", "text": "constant text", "short": "constant short"}

NUMBERS: Final = {"kept_open": (1, 10, 100, 1000, 10000), "one_each": (1, 100)}
"""Of components, with connections kept open, and with one for each probe."""
WITH_PEERS: Final = (1, 100, 1000)


def figures(*, quick: bool) -> dict[str, Any]:
    """Every kind with every number of components, with connections kept open, and with one for each probe."""
    core = apart()
    found: dict[str, dict[int, Any]] = {how: {} for how in NUMBERS}
    versions = installed()
    for number in WITH_PEERS[:2] if quick else NUMBERS["kept_open"]:
        kinds = OURS | ({kind: (kind, peers.PATHS[kind]) for kind in versions} if number in WITH_PEERS else {})
        with serving({app for app, _ in kinds.values()}, number, core=core) as servers:
            targets = {kind: (servers[app], target) for kind, (app, target) in kinds.items()}
            for how, numbers in NUMBERS.items():
                if number in numbers:
                    found[how][number] = measured(targets, keep=how == "kept_open", quick=quick)
    return {**found, "versions": versions, "missing": sorted(peers.DISTRIBUTIONS.keys() - versions)}


def installed() -> dict[str, str]:
    """The peers that are there, with their versions."""
    found = {}
    for kind, distribution in peers.DISTRIBUTIONS.items():
        try:
            found[kind] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def measured(targets: dict[str, tuple[Server, str]], *, keep: bool, quick: bool) -> dict[str, dict[str, float]]:
    """For each kind: microseconds a request, its rate as a share of Starlette's and of its limit's, and wrk's count."""
    seconds, rounds, rounds_of_peers = (0.03, 1, 1) if quick else (0.05, 41, 9)
    measures = {}
    for kind, (server, target) in targets.items():
        client = Client(server, target, keep=keep)
        client.wait_for_success()
        measures[kind] = partial(client.cpu_microseconds, seconds)
        measures[kind]()
    # Others take so long for one request that they would hold up the rounds; their ratios need no third digit.
    others = {kind: measure for kind, measure in measures.items() if kind in peers.APPS or kind == "starlette"}
    found_of_peers = in_turns(others, rounds_of_peers)
    found = in_turns({kind: measures[kind] for kind in OURS}, rounds)
    table = {}
    for kind in targets:
        turns = found if kind in found else found_of_peers
        row = {"cpu_us": median(turns, kind), "of_starlette": ratio(turns, "starlette", kind)}
        if kind in LIMITS:
            row["of_limit"] = ratio(turns, LIMITS[kind], kind)
        if keep and not quick:
            row["wrk_per_second"] = wrk(*targets[kind])
        table[kind] = row
    return table


def wrk(server: Server, target: str) -> float:
    """Requests a second that wrk counts in one second, every one of them answered with success."""
    if shutil.which("wrk") is None:
        raise SystemExit("there is no wrk, which counts the requests: `make bench` installs it")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", f"http://127.0.0.1:{server.port}{target}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec: +([0-9.]+)", said)
    if rate is None or "Non-2xx" in said:
        raise RuntimeError(f"{' '.join(command)} did not go well:\n{said}")
    return float(rate[1])
