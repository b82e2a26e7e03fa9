"""Tests, ranks and the Pareto front of counts of survivors. No random numbers anywhere."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gauntlet.metrics.confidence import even

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 1 << 16
"""Samples that are compared at a time."""


def mcnemar(b: Ints, c: Ints) -> Floats:
    """Return exact two-sided McNemar p-values: b samples only the one kept, c only the other. McNemar (1947).

    Shapes broadcast. 1 where there is no discordant sample.

    >>> float(mcnemar(np.array(30), np.array(15)).round(4))
    0.0357
    """
    return even(np.maximum(b, c), np.minimum(b, c))


def holm(p: Floats) -> Floats:
    """Return Holm's step-down adjusted p-values of one family, [m] -> [m]. Holm (1979), Scand. J. Statist. 6.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def rank_intervals(robust: NDArray[np.bool_], alpha: float = 0.05) -> list[tuple[int, int]]:
    """Return the first and last place that each entry may hold.

    Args:
        robust: [entries, samples], who withstood what; all entries on the same samples.
        alpha: family-wise level over all pairs (exact McNemar tests with Holm's adjustment).

    Returns:
        For each entry (1 + number of entries significantly better, entries - number significantly worse).
    """
    count = len(robust)
    only = np.zeros((count, count), np.int64)  # [i, j]: robust in i, not in j
    for start in range(0, robust.shape[1], BLOCK):
        kept = robust[:, start : start + BLOCK].astype(np.float32)  # sums of up to 2^24 ones are exact
        only += np.rint(kept @ (1 - kept).T).astype(np.int64)
    i, j = np.triu_indices(count, 1)
    significant = holm(mcnemar(only[i, j], only[j, i])) <= alpha
    better = np.zeros((count, count), bool)  # [i, j]: i is significantly better than j
    better[i, j] = significant & (only[i, j] > only[j, i])
    better[j, i] = significant & (only[i, j] < only[j, i])
    first = 1 + better.sum(0)
    last = count - better.sum(1)
    return [(int(low), int(high)) for low, high in zip(first, last, strict=True)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other point beats in both coordinates, by their first coordinate.

    >>> pareto_front([(0.9, 0.1), (0.8, 0.5), (0.7, 0.4)])
    [1, 0]
    """
    best, chosen = -1.0, []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        if points[i][1] > best:
            best = points[i][1]
            chosen.append(i)
    return chosen[::-1]
