"""Lower bounds of a share that hold at all numbers of draws together, and what is to be hoped of further draws.

With a prior that was fixed before the draws, the ratio of the probability of h hits and m misses under the prior to
p^h (1 - p)^m, theirs under a share p, is a martingale of mean one where p is the true share: it ever reaches 1 / alpha
with probability alpha at most (Ville 1939). So the shares at which it has not make a confidence sequence, for any
number of looks (Voracek 2024, arXiv 2406.17830). How tight it is depends on the prior, and that may be another one for
each image (arXiv 2606.27694): here what is known of it by the draws that chose its class, which are not used again. It
is Beta(a, b), with B(a + h, b + m) / B(a, b); where those draws had no miss, half of it is a share of one, since many
images of robust networks have next to it, and a beta prior would ask far more draws for those. Imports no torch.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

WEIGHT = 0.5
"""Hits and misses of the prior before any draw (Jeffreys)."""

HALVINGS = 52


def sequence_bound(hits: ArrayLike, trials: ArrayLike, before: ArrayLike, chosen: ArrayLike, alpha: float) -> Floats:
    """Return the bound: below the true share at all looks together with probability at least 1 - alpha.

    h log p + m log(1 - p) rises up to h / n, so that the shares which are excluded are those below one of them.

    Args:
        hits, trials: so far, whole or not; [...].
        before, chosen: hits and trials that the prior knows of, and that are not among these.
    """
    h, n, first, drawn = (np.asarray(each, float) for each in (hits, trials, before, chosen))
    m, a, b = n - h, WEIGHT + first, WEIGHT + drawn - first
    likely = special.betaln(a + h, b + m) - special.betaln(a, b)
    sure = np.where(m == 0, np.log(0.5), -np.inf)
    likely = np.where(first == drawn, np.logaddexp(likely + np.log(0.5), sure), likely)
    least = likely + np.log(alpha)
    high = np.broadcast_to(np.divide(h, n, out=np.zeros(np.broadcast(h, n).shape), where=n > 0), least.shape).copy()
    low = np.zeros_like(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        excluded = special.xlogy(h, middle) + special.xlog1py(m, -middle) <= least
        low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
    return low


def hopeful_hits(
    hits: Floats, trials: ArrayLike, end: ArrayLike, prior: tuple[Floats, Floats], doubt: Floats
) -> Floats:
    """Return the number of hits among `end` trials that is exceeded with probability `doubt`, of what is known now.

    The hits to come are beta-binomial; their share together with the present ones is taken for beta distributed with
    the same mean and variance.

    Args:
        hits, trials: so far.
        end: trials then.
        prior: hits and trials that are known beside these.
    """
    n, last = np.asarray(trials, float), np.asarray(end, float)
    a = WEIGHT + prior[0] + hits
    total = 2 * WEIGHT + prior[1] + n
    share, more = a / total, last - n
    variance = more * share * (1 - share) * (total + more) / (total + 1) / last**2
    mean = np.clip((hits + more * share) / last, 1e-12, 1 - 1e-12)
    weight = np.maximum(mean * (1 - mean) / np.maximum(variance, 1e-300) - 1, 1e-6)
    top: Floats = special.betaincinv(mean * weight, (1 - mean) * weight, 1 - doubt)
    hoped: Floats = np.where(np.isfinite(top), top, 1.0) * last
    return hoped
