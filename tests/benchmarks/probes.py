"""Probes a second over HTTP, beside bare Starlette and other libraries: `python -m tests.benchmarks.probes [--quick]`.

Each server is started anew for its turn in a round, so that no other one's renewals run beside it, and is driven by
wrk with 16 connections: kept open, and one for each probe as kubelet makes them. Ratios are taken within a round.
"""

import http.client
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final, TypedDict

from tests.benchmarks import peers, served
from tests.servers import free_port

NUMBERS: Final = (1, 10, 100, 1000, 10000)
MOST_FOR_PEERS: Final = 1000
PATIENCE: Final = 30.0
"""Seconds in which a server has to answer 200 for the first time."""

OURS: Final = tuple(kind for kind in served.APPS if kind not in peers.APPS)
LIMITS: Final = {"asgi": "raw", "routes": "constant"}
"""What these are compared with besides Starlette."""

Rates = dict[str, float]
"""Requests a second for each kind, in one round."""
Table = dict[int, dict[str, float]]
"""For each number of components, the median ratios: `routes` is to Starlette, `routes/constant` to that."""


class Figures(TypedDict):
    """All that was measured."""

    kept_open: Table
    one_each: Table
    starlette: Rates
    """Requests a second of bare Starlette, by how connections were used."""
    versions: dict[str, str]
    missing: list[str]
    """Peers that are not installed, and were left out."""


def figures(seconds: float, rounds: int) -> Figures:
    """Drive every server for so many seconds (wrk counts whole ones) in so many rounds."""
    if shutil.which("wrk") is None:
        raise SystemExit("there is no wrk, which sends the requests: `make bench` installs it")
    versions = installed()
    measured: dict[bool, dict[int, list[Rates]]] = {True: {}, False: {}}
    for number in NUMBERS:
        kinds = [*OURS, *(versions if number <= MOST_FOR_PEERS else ())]
        for turn in range(rounds):
            # There and back, so that what drifts within a round touches both sides of a ratio alike.
            driven_now = kinds[::-1] if turn % 2 else kinds
            taken = {kind: rates(kind, number, seconds) for kind in driven_now}
            for keep, of_number in measured.items():
                of_number.setdefault(number, []).append({kind: taken[kind][keep] for kind in kinds})
    return {
        "kept_open": {number: ratios(taken) for number, taken in measured[True].items()},
        "one_each": {number: ratios(taken) for number, taken in measured[False].items()},
        "starlette": {
            name: statistics.median(each["starlette"] for taken in measured[keep].values() for each in taken)
            for name, keep in (("kept_open", True), ("one_each", False))
        },
        "versions": versions,
        "missing": [kind for kind in peers.APPS if kind not in versions],
    }


def installed() -> dict[str, str]:
    """The version of every peer that is there."""
    found = {}
    for kind, distribution in peers.DISTRIBUTIONS.items():
        try:
            found[kind] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def ratios(rounds: list[Rates]) -> dict[str, float]:
    """The median over the rounds of each kind's rate to Starlette's, and of some to their limit's."""
    pairs = {kind: (kind, "starlette") for kind in rounds[0]}
    pairs |= {f"{kind}/{limit}": (kind, limit) for kind, limit in LIMITS.items()}
    return {name: statistics.median(each[one] / each[other] for each in rounds) for name, (one, other) in pairs.items()}


def rates(kind: str, number: int, seconds: float) -> dict[bool, float]:
    """Requests a second of one server, with connections kept open (True) and with one for each request."""
    with serving(kind, number) as port:
        address = f"http://127.0.0.1:{port}{served.PATHS[kind]}"
        return {keep: driven(address, seconds, keep=keep) for keep in (True, False)}


@contextmanager
def serving(kind: str, number: int) -> Iterator[int]:
    """Run one server, from its first 200 on; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.served", kind, str(number), str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + PATIENCE
        while (status := answer(port, served.PATHS[kind])) != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{kind} with {number} components answers {status or 'nothing'} instead of 200")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answer(port: int, path: str) -> int | None:
    """The status of one answer; None without any."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def driven(address: str, seconds: float, *, keep: bool) -> float:
    """Requests a second that wrk counts, every one of them answered with success."""
    header = [] if keep else ["-H", "Connection: close"]
    command = ["wrk", "-t1", "-c16", f"-d{math.ceil(seconds)}s", *header, address]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec: +([0-9.]+)", said)
    if rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{' '.join(command)} did not go well:\n{said}")
    return float(rate[1])


def print_table(title: str, table: Table) -> None:
    """Print one line for each kind, one column for each number of components."""
    print(f"\n{title:24}", *(f"{number:>9,}" for number in table))
    for kind in table[1]:
        shares = (found.get(kind) for found in table.values())
        print(f"{kind:24}", *("        -" if share is None else f"{share:9.1%}" for share in shares))


def main(*options: str) -> None:
    """Measure and print; quickly, where asked to."""
    found = figures(1, 1) if "--quick" in options else figures(2, 5)
    rate = found["starlette"]
    print_table(f"kept open ({rate['kept_open']:,.0f}/s)", found["kept_open"])
    print_table(f"one each ({rate['one_each']:,.0f}/s)", found["one_each"])
    print("\nof bare Starlette, whose rate is in brackets; a/b is a of b")
    print("peers:", ", ".join(f"{kind} {version}" for kind, version in found["versions"].items()) or "none")
    if found["missing"]:
        print("not installed, left out:", ", ".join(found["missing"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
