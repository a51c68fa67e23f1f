"""What probes get when there are many at once, and when a check hangs."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tests.benchmarks import peers, probes
from tests.benchmarks.served import RAN
from tests.benchmarks.servers import Client, Server, serving

CONCURRENT: Final = 200
TARGETS: Final = {"routes": "/readyz", "demand": "/readyz", **peers.PATHS}


def figures(*, quick: bool) -> dict[str, Any]:
    """Concurrent probes for each run of a check, and milliseconds to the answer with one that hangs."""
    kinds = ["routes", "demand", *probes.installed()]
    patience = 2.0 if quick else 10.0
    return {
        "probes_per_run": {kind: probes_per_run(kind) for kind in kinds if kind != "routes"},
        "hanging_ms": answered(kinds, "hanging", patience),
        "stubborn_ms": answered(kinds, "stubborn", patience),
        "patience_ms": patience * 1e3,
    }


def probes_per_run(kind: str) -> float:
    """How many concurrent probes one run of a check serves, the state being none or too old before them."""
    with serving([kind], 1, "counted") as servers:
        with Client(servers[kind], TARGETS[kind], keep=True, connections=CONCURRENT) as client:
            client.ask()
        runs = servers[kind].told().count(RAN)
    return CONCURRENT / runs


def answered(kinds: list[str], check: str, patience: float) -> dict[str, float | None]:
    """Milliseconds to the first probe's answer, whatever it says; None where there was none in time."""
    with serving(kinds, 1, check) as servers, ThreadPoolExecutor(len(kinds)) as threads:
        asked = {kind: threads.submit(_first_answer, servers[kind], TARGETS[kind], patience) for kind in kinds}
        return {kind: answer.result() for kind, answer in asked.items()}


def _first_answer(server: Server, target: str, patience: float) -> float | None:
    begun = time.perf_counter()
    with Client(server, target, keep=False, connections=1, patience=patience) as client:
        try:
            client.ask(status=None)
        except TimeoutError:
            return None
    return (time.perf_counter() - begun) * 1e3
