"""Run the gates: `python -m tests.soak [--scale 1.0] [--times N] [--attempts N] [--jobs N] [R1 R2 ...]`."""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.soak.gates import gates, in_own_process


def held(goal: str, scale: float) -> bool:
    """Measure one goal and print its line."""
    begun = time.monotonic()
    figure = in_own_process(goal, scale)
    verdict = "held  " if figure.held else "MISSED"
    print(f"{goal:4}{verdict} {figure.measured} [{figure.promised}] {time.monotonic() - begun:.1f} s", flush=True)
    return figure.held


def held_in(attempts: int, goal: str, scale: float) -> bool:
    """Measure one goal until it is held, at most so often."""
    return any(held(goal, scale) for _ in range(attempts))


def main() -> int:
    """Print a line for each gate; 1 if one was missed."""
    known = gates()
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Measure the goals.")
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=f"one of {', '.join(known)}; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="shortens durations and counts; 1.0 is the whole goal")
    parser.add_argument("--times", type=int, default=1, help="how often each gate is run")
    parser.add_argument(
        "--attempts", type=int, default=1, help="how often one that missed is tried again, where others use the machine"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many gates run beside each other, to save time")
    arguments = parser.parse_args()
    unknown = [goal for goal in arguments.goals if goal not in known]
    if unknown:
        parser.error(f"no gate measures {', '.join(unknown)}; known: {', '.join(known)}")
    goals = [goal for goal in arguments.goals or known for _ in range(arguments.times)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(lambda goal: held_in(arguments.attempts, goal, arguments.scale), goals))
    missed = [goal for goal, reached in zip(goals, outcomes, strict=True) if not reached]
    if missed:
        print(f"missed: {', '.join(dict.fromkeys(missed))}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
