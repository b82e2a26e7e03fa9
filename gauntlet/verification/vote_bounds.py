"""Bounds on shares of votes, by other routines than the certifier's: quantiles, probability mass, and root finding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import xlog1py, xlogy
from scipy.stats import beta, betabinom, binom

from gauntlet.certification.confidence_sequence import WEIGHT
from gauntlet.certification.sequential_test import Stopping

Floats = NDArray[np.float64]


def share_bounds(hits: Any, trials: int, alpha: float) -> Any:
    """Return the one-sided Clopper-Pearson bounds of shares, by quantiles of the beta distribution.

    >>> float(share_bounds(np.array([99_300]), 100_000, 0.001)[0].round(6))
    0.992147
    """
    k = np.asarray(hits, float)
    return np.where(k == 0, 0.0, beta.ppf(alpha, np.maximum(k, 1), trials - k + 1))


def look_bounds(plan: Stopping, look: int, hits: Any, pilot: Any) -> Floats:
    """Return the bounds of the shares of the image of a plan at a look, [V]; pilot: votes in the selection, [V]."""
    drawn = plan.looks[look]
    last: Floats = share_bounds(hits, drawn, plan.share(look))
    if plan.uniform is not None and look == len(plan.looks) - 1:
        pairs = zip(hits, plan.uniform[0], strict=True)
        last = np.array([_randomized_bound(int(h), drawn, plan.share(look), float(u)) for h, u in pairs])
    if not plan.sequence:
        return last
    pairs = zip(hits, pilot, strict=True)
    earlier = np.array([_sequence_bound(int(h), drawn, float(k), plan.selection, plan.share(0)) for h, k in pairs])
    return np.maximum(earlier, last) if look == len(plan.looks) - 1 else earlier


def _randomized_bound(hits: int, trials: int, alpha: float, uniform: float) -> float:
    """Return the share at which more hits, and as many with a probability of `uniform`, have the probability alpha."""

    def excess(share: float) -> float:
        return float(binom.sf(hits, trials, share) + uniform * binom.pmf(hits, trials, share) - alpha)

    cap = max(alpha, 0.5) ** (1 / trials)
    if excess(cap) <= 0:
        return float(cap)
    return 0.0 if excess(0.0) >= 0 else float(brentq(excess, 0.0, cap, xtol=1e-15))


def _sequence_bound(hits: int, trials: int, pilot: float, chosen: int, alpha: float) -> float:
    """Return the share at which the probability of these votes is alpha times that under the prior."""
    if not hits:
        return 0.0
    prior = betabinom.pmf(hits, trials, WEIGHT + pilot, WEIGHT + chosen - pilot)
    if pilot == chosen:
        prior = 0.5 * prior + 0.5 * (hits == trials)
    ways = binom.logpmf(hits, trials, share := hits / trials) - xlogy(hits, share) - xlog1py(trials - hits, -share)
    target = np.log(alpha) + np.log(prior) - ways
    if hits == trials:
        return float(np.exp(target / hits))
    return float(brentq(lambda p: xlogy(hits, p) + xlog1py(trials - hits, -p) - target, 1e-300, share, xtol=1e-15))
