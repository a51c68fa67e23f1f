"""Run the gates: `python -m tests.soak [--scale 1.0] [--times N] [R1 R2 ...]`."""

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.soak import clocks, fuzz, hanging, http, leaks, load, outcomes, secrets, telemetry
from tests.soak.figure import Figure, Gate

MODULES = (hanging, clocks, outcomes, load, leaks, telemetry, secrets, fuzz, http)


def gates() -> dict[str, Gate]:
    """Every gate by the goal that it measures, in the order of the goals."""
    found: dict[str, Gate] = {}
    for module in MODULES:
        found.update({name.removeprefix("gate_"): gate for name, gate in vars(module).items() if name[:5] == "gate_"})
    return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1:]))))


def measure(goal: str, scale: float) -> Figure:
    """Measure one goal; a gate that breaks down has missed."""
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


def main() -> int:
    """Print a line for each gate; 1 if one was missed."""
    known = gates()
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Measure the goals.")
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=f"one of {', '.join(known)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="shortens durations and counts; 1.0 is the whole goal")
    parser.add_argument("--times", type=int, default=1, help="how often each gate is run")
    arguments = parser.parse_args()
    unknown = [goal for goal in arguments.goals if goal not in known]
    if unknown:
        parser.error(f"no gate measures {', '.join(unknown)}; known: {', '.join(known)}")
    missed: list[str] = []
    for goal in arguments.goals or known:
        for _ in range(arguments.times):
            begun = time.monotonic()
            figure = in_own_process(goal, arguments.scale)
            verdict = "held  " if figure.held else "MISSED"
            print(f"{goal:4}{verdict} {figure.measured} [{figure.promised}] {time.monotonic() - begun:.1f} s", flush=True)
            if not figure.held:
                missed.append(goal)
    if missed:
        print(f"missed: {', '.join(dict.fromkeys(missed))}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
