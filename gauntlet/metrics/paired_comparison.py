"""Two or more entries on the same samples: differences with paired intervals, exact tests, and who breaks where."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gauntlet.metrics.ranking import holm, mcnemar

Bools = NDArray[np.bool_]


class PairComparison(NamedTuple):
    """The first of a pair against the second: `first_only` and `second_only` count samples that one alone withstands.

    `difference` is first minus second, in [-1, 1]; `p` is the exact McNemar test's, adjusted by Holm over all pairs.
    """

    first: int
    second: int
    first_only: int
    second_only: int
    difference: float
    interval: tuple[float, float]
    p: float


def paired_interval(first_only: int, second_only: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the difference of two proportions of the same n samples.

    Wald's with half a sample added to each of the four cells: Agresti and Min, Statistics in Medicine 24 (2005).

    >>> [round(end, 4) for end in paired_interval(30, 15, 1000)]
    [0.0017, 0.0282]
    """
    b, c, total = first_only + 0.5, second_only + 0.5, n + 2.0
    middle = (b - c) / total
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(max(0.0, b + c - (b - c) ** 2 / total)) / total
    return max(-1.0, middle - half), min(1.0, middle + half)


def compare_pairs(robust: Bools, n: int) -> list[PairComparison]:
    """Compare every pair of entries.

    Args:
        robust: [entries, samples], who withstood what; samples that nobody withstood may be left out.
        n: samples in all.
    """
    pairs = list(combinations(range(len(robust)), 2))
    counts = [(int((robust[i] & ~robust[j]).sum()), int((robust[j] & ~robust[i]).sum())) for i, j in pairs]
    only = np.array(counts, np.int64).reshape(-1, 2)
    p = holm(mcnemar(only[:, 0], only[:, 1]))
    return [
        PairComparison(i, j, b, c, (b - c) / n, paired_interval(b, c, n), float(value))
        for (i, j), (b, c), value in zip(pairs, counts, p, strict=True)
    ]


def venn(sets: Bools) -> dict[tuple[int, ...], int]:
    """Return how many samples lie in exactly these sets and no other, [sets, samples] -> positions of sets: count."""
    patterns = Counter(tuple(np.flatnonzero(column).tolist()) for column in sets.T)
    return {key: patterns[key] for key in sorted(patterns, key=lambda key: (len(key), key))}


def class_agreement(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Return how many of the samples that both broke got the same class from both, and how many both broke.

    Args:
        first, second: the adversarial class of each sample; negative where it was not broken.
    """
    one, two = np.asarray(first), np.asarray(second)
    both = (one >= 0) & (two >= 0)
    return int((both & (one == two)).sum()), int(both.sum())
