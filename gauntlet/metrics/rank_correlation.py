"""Rank correlations with intervals: does a cheap measure order systems as a costly one does? Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.errors import UserError
from gauntlet.metrics.perturbation_size import Floats

LEAST = 4
"""Systems below which an interval says nothing."""

REPEATS = 300


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b and Spearman's rho of two measures of the same systems, each with its 95 % bootstrap interval.

    Attributes:
        systems: that have both measures.
        defined: whether both measures tell any two systems apart; otherwise all numbers are NaN.
    """

    systems: int
    kendall: float
    kendall_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]

    @property
    def defined(self) -> bool:
        """Return whether both measures tell any two systems apart."""
        return bool(np.isfinite(self.kendall))


def correlated(first: Sequence[float], second: Sequence[float], seed: int = 0) -> RankCorrelation:
    """Return the rank correlations of two measures; systems are drawn again for the intervals.

    Args:
        first, second: of each system, in one order.

    Raises:
        UserError: fewer than four systems, or a measure that is not finite.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(x) < LEAST:
        raise UserError(f"{len(x)} systems have both measures; a rank correlation needs at least {LEAST}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("a measure is not finite; leave out the systems that lack it")
    draws = np.random.default_rng(seed)
    tau, rho = _both(x, y)
    found = np.array([_both(x[chosen], y[chosen]) for chosen in draws.integers(len(x), size=(REPEATS, len(x)))])
    low, high = _quantiles(found)
    return RankCorrelation(len(x), tau, (low[0], high[0]), rho, (low[1], high[1]))


def _both(x: Floats, y: Floats) -> tuple[float, float]:
    """Return tau-b and rho; NaN where a measure is the same for all systems."""
    from scipy import stats  # slow to import

    if (x == x[0]).all() or (y == y[0]).all():
        return np.nan, np.nan
    ranks = stats.rankdata(x), stats.rankdata(y)
    return float(stats.kendalltau(x, y).statistic), float(np.corrcoef(*ranks)[0, 1])


def _quantiles(found: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return both ends of the intervals; draws of one system alone, which have no correlation, left out."""
    kept = found[np.isfinite(found).all(1)]
    if not len(kept):
        return (np.nan, np.nan), (np.nan, np.nan)
    low, high = np.quantile(kept, [0.025, 0.975], axis=0)
    return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))
