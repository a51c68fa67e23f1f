"""Rounds in which everything that is compared takes its turn, so that what drifts on the machine touches all alike."""

import gc
import statistics
from collections.abc import Callable, Iterable, Mapping

Slices = dict[str, list[float]]
"""What each measure found, round by round."""


def in_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> Slices:
    """Take one slice of each measure in every round; there and back, beginning with each in turn.

    So nobody is always the first or in the middle, and nobody always comes after itself, when all is warm.

    Garbage is collected before each slice, and as it is anywhere meanwhile: whoever makes more of it pays for it. What
    was there before is not gone through again, since it is nobody's.
    """
    names = list(measures)
    found: Slices = {name: [] for name in names}
    gc.freeze()
    try:
        for turn in range(rounds):
            first = turn // 2 % len(names)
            order = names[first:] + names[:first]
            for name in reversed(order) if turn % 2 else order:
                gc.collect()
                found[name].append(measures[name]())
    finally:
        gc.unfreeze()
    return found


def ratio(found: Slices, one: str, other: str) -> float:
    """The median over the rounds of how much more the one takes than the other."""
    return statistics.median(first / second for first, second in zip(found[one], found[other], strict=True))


def median(found: Slices, name: str) -> float:
    """The median over the rounds."""
    return statistics.median(found[name])


def noise(ratios: Iterable[float]) -> dict[str, float]:
    """The quartiles of how far from itself, each time that it was started anew, is what did not change."""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"noise_low": low, "noise_high": high}
