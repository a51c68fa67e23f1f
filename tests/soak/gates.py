"""Every gate by its goal, and each run of one in a process of its own."""

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tests.soak import (
    clients,
    clocks,
    forks,
    fuzz,
    guards,
    hanging,
    http,
    leaks,
    lifecycle,
    liveness,
    load,
    mending,
    outcomes,
    registration,
    secrets,
    telemetry,
)
from tests.soak.figure import Figure, Gate

MODULES = (
    hanging,
    clocks,
    forks,
    outcomes,
    load,
    leaks,
    telemetry,
    secrets,
    fuzz,
    http,
    guards,
    lifecycle,
    liveness,
    mending,
    registration,
    clients,
)


def gates() -> dict[str, Gate]:
    """Every gate by the goal that it measures, in the order of the goals."""
    found: dict[str, Gate] = {}
    for module in MODULES:
        found.update({name.removeprefix("gate_"): gate for name, gate in vars(module).items() if name[:5] == "gate_"})
    return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1:]))))


def measure(goal: str, scale: float) -> Figure:
    """Measure one goal; a gate that breaks down has missed."""
    # What was imported so far is nobody's garbage, and no collection need hold a gate up with it.
    gc.collect()
    gc.freeze()
    try:
        return gates()[goal](scale)
    except BaseException as error:  # noqa: BLE001 - whatever stopped it, the goal was not reached.
        return Figure(goal, "the gate runs to its end", f"{type(error).__name__}: {error}", held=False)


def in_own_process(goal: str, scale: float) -> Figure:
    """Measure one goal in a process of its own: what one gate leaves behind is no other's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, goal, scale).result()
        except Exception as error:  # noqa: BLE001 - the process died of it.
            return Figure(goal, "the gate runs to its end", f"{type(error).__name__}: {error}", held=False)
