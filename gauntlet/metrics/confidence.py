"""Exact binomial bounds and tests, in float64. Imports no torch."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special


def wilson(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) where nothing was counted.

    >>> [round(bound, 4) for bound in wilson(700, 1000)]
    [0.6709, 0.7276]
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = hits / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


Floats = NDArray[np.float64]


def lower(hits: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the one-sided Clopper-Pearson bound: below the true probability with probability at least 1 - alpha
    (1934).

    >>> float(lower(99_300, 100_000, 0.001).round(6))
    0.992147
    """
    k, n = np.asarray(hits, float), np.asarray(trials, float)
    bound = special.betaincinv(np.maximum(k, 1), n - k + 1, np.asarray(alpha, float))
    return np.where(k == 0, 0.0, bound)


HALVINGS = 60


def randomized_lower(hits: ArrayLike, trials: ArrayLike, alpha: float, uniform: ArrayLike) -> Floats:
    """Return the randomized one-sided bound (Stevens 1950; of smoothing Voracek 2024, arXiv 2406.17830): below the
    true probability p with probability 1 - alpha, exactly.

    The share at which P[more hits] + uniform P[as many] is alpha: Clopper-Pearson's where `uniform` is one, otherwise
    larger. It is cut at the share of which all trials hit as often as not, so that a p above that is never exceeded:
    of trials without a miss the equation would give one wherever `uniform` is at most alpha.

    Args:
        hits, trials: whole or not; they broadcast with `uniform`.
        alpha: in (0, 1).
        uniform: drawn from [0, 1] independently of the hits, and not chosen after having seen them.

    >>> randomized_lower(990, 1000, 0.001, [1.0, 0.5, 0.0]).round(6).tolist()
    [0.976036, 0.976619, 0.977497]
    """
    k, n, u = np.broadcast_arrays(*(np.asarray(each, float) for each in (hits, trials, uniform)))
    low, high = np.zeros(k.shape), max(alpha, 0.5) ** (1 / n)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = np.where(k >= n, 0.0, special.betainc(k + 1, np.maximum(n - k, 1e-300), middle))
        least = np.where(k <= 0, 1.0, special.betainc(np.maximum(k, 1e-300), n - k + 1, middle))
        excluded = (1 - u) * more + u * least <= alpha
        low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
    return low


def upper(hits: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the bound on the other side: above the true probability with probability at least 1 - alpha."""
    k, n = np.asarray(hits, float), np.asarray(trials, float)
    return 1 - lower(n - k, n, alpha)


def bounded_mean(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval that holds the mean of the law of independent numbers in [0, 1], whatever that law is, with
    at least this confidence; (0, 1) without any.

    Clopper-Pearson at twice the strictness, for the whole numbers around the sum: rounded to 1 with its own value as
    probability, each number is a coin with that mean, so that their total T is binomial. Given the numbers, T has a
    median of at least the whole part of their sum S (Jogdeo and Samuels 1968), so that P[S >= k] <= 2 P[T >= k].

    >>> [round(end, 4) for end in bounded_mean([0.5] * 100)]
    [0.3848, 0.6152]
    """
    numbers = np.asarray(values, float)
    if not len(numbers):
        return 0.0, 1.0
    total, alpha = float(numbers.sum()), (1 - confidence) / 4
    low, high = math.floor(total + WHOLE), math.ceil(total - WHOLE)
    return float(lower(low, len(numbers), alpha)), float(upper(high, len(numbers), alpha))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of numbers without a known bound (1908), for many numbers or ones that are
    nearly normal; the whole line for fewer than two.

    >>> [round(end, 4) for end in mean_interval([0.0, 0.5, 1.0, 0.5])]
    [-0.1496, 1.1496]
    """
    numbers = np.asarray(values, float)
    if len(numbers) < 2:
        return -math.inf, math.inf
    half = float(
        special.stdtrit(len(numbers) - 1, 0.5 + confidence / 2) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    )
    return float(numbers.mean()) - half, float(numbers.mean()) + half


WHOLE = 1e-6
"""Sums this near to a whole number are it: shares are stored in float32."""


def tail(hits: ArrayLike, trials: ArrayLike, probability: ArrayLike) -> Floats:
    """Return P[at least `hits` of `trials`], each with that probability."""
    k, n, p = np.asarray(hits, float), np.asarray(trials, float), np.asarray(probability, float)
    inside = special.betainc(np.maximum(k, 1), np.maximum(n - k + 1, 1e-300), p)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, inside))


def even(more: ArrayLike, less: ArrayLike) -> Floats:
    """Return the two-sided p-value of the exact test that two counts, of which the first is not smaller, come from a
    fair coin.

    >>> float(even(67, 33).round(5))
    0.00087
    """
    high, low = np.asarray(more, float), np.asarray(less, float)
    return np.minimum(1.0, 2 * tail(high, high + low, 0.5))


def most(trials: int, probability: float, doubt: float) -> int:
    """Return the number of hits that is not exceeded with probability at least 1 - doubt."""
    hits: Any = 0
    while hits < trials and tail(hits + 1, trials, probability) > doubt:
        hits += 1
    return int(hits)
