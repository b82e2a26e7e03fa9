"""How far an attribution averaged over a ball moves when the image does, and what that leaves of it. Imports no torch.

h(x) = E g(x + u) with u uniform in the d-dimensional l2 ball of radius r and any attribution with |g| <= 1. At a
distance e the two balls share all but the part q(e) of their volume, and h(x + delta) - h(x) is the mean of g over what
is gained minus its mean over what is lost: no longer than 2 q(e). Nothing else is asked of g. The setting is that of
Wang and Kong 2024 (arXiv 2405.06361), the bound is not theirs: see `published_cosine`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_CLAIM = -1.0
"""Cosine where nothing is certified."""

ROUNDING = 2.0**-22
"""By how much a map in float32 of length at most one may differ from the one in float64."""

HALVINGS = 60


def lost(distance: ArrayLike, radius: float, dimensions: int) -> Floats:
    """Return the share of a ball that another one of this radius, at that distance of the centers, does not cover.

    q(e) = I_{(e / 2r)^2}(1/2, (d + 1) / 2), the regularized incomplete beta function; 1 from e = 2r on.
    """
    part = np.minimum(np.asarray(distance, float) / (2 * radius), 1.0)
    share: Floats = special.betainc(0.5, (dimensions + 1) / 2, part * part)
    return share


def distance_of(share: ArrayLike, radius: float, dimensions: int) -> Floats:
    """Return the largest distance at which no more than this share of the ball is lost; the inverse of `lost`."""
    part = special.betaincinv(0.5, (dimensions + 1) / 2, np.clip(share, 0.0, 1.0))
    distance: Floats = 2 * radius * np.sqrt(part)
    return distance


def sampling_error(norm: ArrayLike, draws: int, alpha: float) -> Floats:
    """Return how far the mean of so many draws of g may lie from h in l2, except with probability alpha.

    Bernstein's inequality in a Hilbert space (Pinelis 1994, theorem 3.4): P[|mean - h| >= t] is at most
    2 exp(-n t^2 / (2 (v + a t / 3))) with |g - h| <= a = 2 and the variance v = E|g|^2 - |h|^2 <= 1 - |h|^2. As v falls
    with |h|, and |h| is at least |mean| - t, the bounds of both are taken in turn, from |h| >= 0 on; each turn holds
    where the one before does.

    Args:
        norm: |mean|, [...].
    """
    length, log = np.asarray(norm, float), np.log(2 / alpha)
    least = np.zeros_like(length)
    for _ in range(HALVINGS):
        spread = 2 * draws * (1 - least * least) * log
        error = (2 * log / 3 + np.sqrt((2 * log / 3) ** 2 + spread)) / draws
        least = np.clip(length - error, least, 1.0)
    found: Floats = error
    return found


def certified_cosine(norm: ArrayLike, moved: ArrayLike) -> Floats:
    """Return the least cosine between a map of that length and any map no further away than `moved`; -1 where those
    may be orthogonal to it or beyond."""
    length, reach = np.asarray(norm, float), np.asarray(moved, float)
    part = np.divide(reach, length, out=np.ones(np.broadcast(reach, length).shape), where=length > 0)
    return np.where(part < 1, np.sqrt(np.clip(1 - part * part, 0, 1)), NO_CLAIM)


def published_cosine(norm: ArrayLike, moved: ArrayLike) -> Floats:
    """Return |h| / sqrt(|h|^2 + moved^2), the bound of arXiv 2405.06361 as it is summarized publicly.

    It holds only where the change is orthogonal to h, and is positive always: with g = e_1 on what is lost, e_2 on what
    is gained and 0 in between the true cosine is 0. An estimate, not a certificate.
    """
    length = np.asarray(norm, float)
    return np.asarray(length / np.maximum(np.hypot(length, moved), np.finfo(float).tiny))


def certified_overlap(importance: Floats, count: int, moved: ArrayLike) -> Ints:
    """Return how many of the `count` most important pixels stay among them in every map that is no further away in l2.

    For m of them to leave, m others must reach them: the cheapest are the least important of the former and the most
    important of the latter, which meet at one level t, so that the squared distance is min_t sum (a - t)_+^2 + sum (t -
    b)_+^2. It grows with m.

    Args:
        importance: of the pixels of n images, [n, P], P >= count.
        moved: l2 distance, [n].
    """
    ordered = -np.sort(-importance, axis=1)
    most = min(count, importance.shape[1] - count)
    low, high = np.zeros(len(ordered), np.int64), np.full(len(ordered), most)  # that many can leave; no more can
    reach = np.broadcast_to(np.asarray(moved, float), low.shape)
    while (low < high).any():
        middle = (low + high + 1) // 2
        leave = _distance_to_swap(ordered, count, middle) <= reach
        low, high = np.where(leave, middle, low), np.where(leave, high, middle - 1)
    return count - low


def _distance_to_swap(ordered: Floats, count: int, swapped: Ints) -> Floats:
    """Return the l2 distance of the nearest map in which so many of the first `count` change places with others, [n].

    ordered: descending, [n, P]; swapped: [n].
    """
    place = np.arange(ordered.shape[1])
    inside = (place >= count - swapped[:, None]) & (place < count)
    outside = (place >= count) & (place < count + swapped[:, None])
    low, high = ordered[:, -1].copy(), ordered[:, 0].copy()
    for _ in range(HALVINGS):
        level = (low + high)[:, None] / 2
        falls, rises = np.maximum(ordered - level, 0) * inside, np.maximum(level - ordered, 0) * outside
        above = rises.sum(1) > falls.sum(1)
        low, high = np.where(above, low, level[:, 0]), np.where(above, level[:, 0], high)
    distance: Floats = np.sqrt((falls**2).sum(1) + (rises**2).sum(1))
    return distance
