"""Tests and ranks for counts of survivors. Sources at each function; no random numbers anywhere."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 1 << 16
"""Samples that are compared at a time."""


def mcnemar(b: Ints, c: Ints) -> Floats:
    """Exact two-sided McNemar p-values: b samples only the one kept, c only the other. McNemar (1947).

    Shapes broadcast. 1 where there is no discordant sample.

    >>> float(mcnemar(np.array(30), np.array(15)).round(4))
    0.0357
    """
    few = np.minimum(b, c).astype(float)
    p: Floats = np.minimum(1.0, 2 * bdtr(few, (b + c).astype(np.int64), 0.5))
    return p


def holm(p: Floats) -> Floats:
    """Holm's step-down adjusted p-values of one family, [m] -> [m]. Holm (1979), Scand. J. Statist. 6.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def rank_intervals(robust: NDArray[np.bool_], alpha: float = 0.05) -> list[tuple[int, int]]:
    """First and last place that each entry may hold.

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
