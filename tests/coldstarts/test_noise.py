"""The statistics give what was worked out by hand, and by counting."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest

from tracedbridge.coldstarts.noise import holm, is_enough, mann_whitney, median, quantile, runs_needed, verdict

if TYPE_CHECKING:
    from tracedbridge.coldstarts.noise import Verdict


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([10, 3, 1, 4, 2], 0.1, 1.4),
        ([10, 3, 1, 4, 2], 0.9, 7.6),
        ([10, 3, 1, 4, 2], 0.0, 1),
        ([10, 3, 1, 4, 2], 1.0, 10),
        ([7], 0.9, 7),
    ],
)
def test_quantile(values: list[float], share: float, expected: float) -> None:
    """A quantile lies between two values in proportion."""
    assert quantile(values, share) == pytest.approx(expected)


def test_median() -> None:
    """The median is the middle of an odd number, and the mean of the two in the middle of an even one."""
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # 2 of the 20 orders of three and three are as far apart.
        pytest.param([1, 2, 3], [4, 5, 6], 2 / 20, id="apart"),
        pytest.param([4, 5, 6], [1, 2, 3], 2 / 20, id="apart the other way"),
        # U = 2, and 1 + 1 + 2 orders have no more.
        pytest.param([1, 2, 5], [3, 4, 6], 2 * 4 / 20, id="mixed"),
        # U = 4 of 9: both halves together are more than all.
        pytest.param([1, 4, 5], [2, 3, 6], 1.0, id="in the middle"),
        # U = 3, mean 8, variance 16/12 * (9 - 48/56) = 10.857: z = 4.5 / 3.2950 = 1.3657.
        pytest.param([1, 2, 2, 3], [2, 3, 3, 4], 0.172034, id="ties"),
        # U = 0 of 441, variance 441/12 * 43 = 1580.25: z = (220.5 - 0.5) / 39.752 = 5.5343.
        pytest.param(range(21), range(21, 42), 3.125e-8, id="many"),
        pytest.param([5] * 6, [5] * 6, 1.0, id="all equal"),
    ],
)
def test_mann_whitney(before: list[float], after: list[float], expected: float) -> None:
    """The test gives the known probabilities, exactly for small samples without ties."""
    assert mann_whitney(before, after) == pytest.approx(expected, rel=1e-3)


def test_mann_whitney_counts_every_order() -> None:
    """The exact probability is the share of all orders in which the two are as far apart or further."""
    size, n = 9, 4
    orders = [set(chosen) for chosen in itertools.combinations(range(size), n)]

    def distance(before: set[int]) -> float:
        after = set(range(size)) - before
        return abs(sum(b > a for b in before for a in after) - n * (size - n) / 2)

    for before in orders:
        share = sum(distance(other) >= distance(before) for other in orders) / len(orders)
        after = [float(value) for value in range(size) if value not in before]
        assert mann_whitney([float(value) for value in before], after) == pytest.approx(share)


def test_holm() -> None:
    """The smallest of four counts four times, the next three times, and none comes before a smaller one."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("before", "after", "rows", "expected"),
    [(4, 100, 1, False), (5, 5, 1, True), (5, 5, 2, False), (7, 7, 18, False), (8, 8, 18, True)],
)
def test_is_enough(before: int, after: int, rows: int, expected: bool) -> None:
    """With fewer than five runs, or too few for the number of rows, nothing can be told."""
    assert is_enough(before, after, rows) is expected
    # What could be told at best: the two sides wholly apart.
    best = mann_whitney(list(range(before)), list(range(before, before + after))) * rows
    assert not expected or best < 0.01


def test_runs_needed() -> None:
    """It takes as many runs as one fewer would not do."""
    needed = runs_needed(18)
    assert (needed, is_enough(needed - 1, needed - 1, 18)) == (8, False)
    assert 2 * 18 / math.comb(16, 8) < 0.01 < 2 * 18 / math.comb(14, 7)


@pytest.mark.parametrize(
    ("probability", "difference_ms", "expected"),
    [
        (0.009, 1.0, "slower"),
        (0.009, -1.0, "faster"),
        (0.01, 500.0, "noise"),
        pytest.param(0.0, 0.99, "noise", id="too small to matter"),
    ],
)
def test_verdict(probability: float, difference_ms: float, expected: Verdict) -> None:
    """A difference is one that is improbable, and of a millisecond or more."""
    assert verdict(probability, difference_ms) == expected
