"""The statistics: what is in the middle, how far it spreads, and whether two series differ by more than noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    Verdict = Literal["slower", "faster", "noise", "too few runs"]

__all__ = ("MIN_RUNS", "holm", "is_enough", "mann_whitney", "median", "quantile", "runs_needed", "verdict")

# One comparison in a hundred may call noise a difference, all rows of a table together: CI asks this many times a day.
_LEVEL = 0.01

# What nobody waits for, whatever a test says of it.
_MIN_DIFFERENCE_MS = 1.0

# With four runs on each side the test cannot give less than 0.029.
MIN_RUNS = 5

# The normal approximation is good from ten on each side; 400 steps of whole numbers cost nothing.
_MAX_EXACT = 20


def median(values: Sequence[float]) -> float:
    """Return the value in the middle, or the mean of the two there."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of the values is; between two of them, in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def mann_whitney(before: Sequence[float], after: Sequence[float]) -> float:
    """
    Return how probable it is that two samples of one distribution differ by as much, in either direction.

    Exact up to 20 values a side without ties, else the normal approximation, corrected for ties and for continuity.

    Source: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
    other", 1947; Hollander and Wolfe, "Nonparametric Statistical Methods", 4.1.
    """
    n, m = len(before), len(after)
    u = sum((a > b) + (a == b) / 2 for b in before for a in after)
    # It is symmetric: look at the smaller side.
    u = min(u, n * m - u)
    values = sorted((*before, *after))
    ties = [values.count(value) for value in set(values)]
    if max(ties) == 1 and max(n, m) <= _MAX_EXACT:
        return min(1.0, 2 * sum(_orders(n, m)[: int(u) + 1]) / math.comb(n + m, n))
    size = n + m
    variance = n * m / 12 * (size + 1 - sum(tie**3 - tie for tie in ties) / (size * (size - 1)))
    if variance <= 0:
        # All are equal.
        return 1.0
    z = max(0.0, n * m / 2 - u - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def _orders(n: int, m: int) -> list[int]:
    """
    Return, for each value of the statistic, in how many orders ``n`` and ``m`` values give it.

    They are the coefficients of the Gaussian binomial: the product of (1 - q^(m+i)) / (1 - q^i) for i from 1 to n.
    """
    counts = [0] * (n * m + 1)
    counts[0] = 1
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts


def holm(probabilities: Sequence[float]) -> list[float]:
    """
    Return the probabilities of several tests, each as if it had been the only one, in the same order.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [0.0] * len(probabilities)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(probabilities)), key=lambda index: probabilities[index])):
        highest = max(highest, min(1.0, probabilities[index] * (len(probabilities) - rank)))
        adjusted[index] = highest
    return adjusted


def is_enough(before: int, after: int, rows: int) -> bool:
    """Say whether so many runs on each side could show a difference in a table of so many rows at all."""
    return min(before, after) >= MIN_RUNS and 2 * rows / math.comb(before + after, before) < _LEVEL


def runs_needed(rows: int) -> int:
    """Return how many runs on each side could show a difference in a table of so many rows."""
    runs = MIN_RUNS
    while not is_enough(runs, runs, rows):
        runs += 1
    return runs


def verdict(probability: float, difference_ms: float) -> Verdict:
    """Return what is to be said of a difference of two medians and its probability, adjusted."""
    if probability >= _LEVEL or abs(difference_ms) < _MIN_DIFFERENCE_MS:
        return "noise"
    return "slower" if difference_ms > 0 else "faster"
