"""How the error grows with a small eps: a power law fitted to the distances of nearest adversarial examples. No torch.

Cubuk et al. 2017, "Intriguing properties of adversarial examples", arXiv 1711.02846: error = A eps^B before it
saturates, with B about 1 for attacks of one step and about 2 for iterated ones. A defense should move A, not B.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.errors import UserError
from gauntlet.metrics.perturbation_size import Floats, reach

POINTS = 12
"""Values of eps, spaced by factors, where a run without a bound gives the error at every one."""

REPEATS = 500
LEAST, MOST = 0.005, 0.5
"""The errors that are fitted: smaller ones are few images, larger ones saturate."""


@dataclass(frozen=True)
class PowerLaw:
    """A fit of error = A eps^B to images that are right without an attack.

    Attributes:
        eps, error: the points, rising; used: of these, whether they were fitted.
        exponent, interval: B and its 95 % bootstrap interval over images.
        factor: A.
        determination: R^2 of the fit in logarithms.
        saturating, scale: B and e0 of error = 1 - exp(-(eps / e0)^B), fitted to the same points.
        half: eps at which half of the images are wrong; infinite where that is not known.
    """

    samples: int
    eps: tuple[float, ...]
    error: tuple[float, ...]
    used: tuple[bool, ...]
    exponent: float
    interval: tuple[float, float]
    factor: float
    determination: float
    saturating: float
    scale: float
    half: float


def fitted(distance: Floats, radii: Sequence[float], unbounded: bool, seed: int = 0) -> PowerLaw:
    """Return the fit. All images are drawn again for the interval, the same at every eps.

    Args:
        distance: of the nearest adversarial example of each image [n]: 0 where it is wrong as it is, infinite where
            none was found.
        radii: the finite eps of the runs.
        unbounded: whether one of them has none, so that the error is known at every eps.

    Raises:
        UserError: fewer than three values of eps have an error between max(0.5 %, 10 / n) and 50 %.
    """
    right = distance[distance > 0]
    low = max(LEAST, 10 / max(len(right), 1))
    points = _spaced(right, low) if unbounded else np.unique(radii)
    fallen = right[:, None] <= np.array([reach(float(eps)) for eps in points])[None, :]
    error = fallen.mean(0) if len(right) else np.zeros(len(points))
    used = (error >= low) & (error <= MOST)
    if used.sum() < 3:
        raise UserError(
            f"{int(used.sum())} of {len(points)} values of eps have an error from {low:.1%} to {MOST:.0%} of "
            f"{len(right)} images; give runs of three such values, or one by attack=fmn threat.eps=unbounded"
        )
    x = np.log(points[used])
    slope, offset, fit = _line(x, np.log(error[used]), _weights(error[used]))
    curved, other = _saturating(x, error[used])
    return PowerLaw(
        samples=len(right),
        eps=tuple(points.tolist()),
        error=tuple(error.tolist()),
        used=tuple(used.tolist()),
        exponent=slope,
        interval=_bootstrap(fallen[:, used], x, seed),
        factor=math.exp(offset),
        determination=fit,
        saturating=curved,
        scale=math.exp(-other / curved) if curved else math.inf,
        half=float(np.quantile(right, 0.5, method="higher")) if unbounded else math.inf,
    )


def _spaced(right: Floats, low: float) -> Floats:
    """Return values of eps from the one with the least error that counts to the one with the largest."""
    finite = np.sort(right)
    first, last = (finite[min(math.ceil(share * len(finite)), len(finite) - 1)] for share in (low, MOST))
    if not (np.isfinite(last) and first > 0):
        known = finite[np.isfinite(finite)]
        last = known[-1] if len(known) else np.nan
    return np.geomspace(first, last, POINTS) if np.isfinite(last) and 0 < first < last else np.zeros(0)


def _weights(error: Floats) -> Floats:
    """Return the inverse variances of the logarithm of a share, up to a factor."""
    return np.asarray(error / (1 - error))


def _line(x: Floats, y: Floats, weight: Floats) -> tuple[float, float, float]:
    """Return slope, offset and R^2 of the weighted least squares."""
    share = weight / weight.sum()
    at, level = (share * x).sum(), (share * y).sum()
    slope = (share * (x - at) * (y - level)).sum() / (share * (x - at) ** 2).sum()
    offset = level - slope * at
    spread = (share * (y - level) ** 2).sum()
    rest = (share * (y - offset - slope * x) ** 2).sum()
    return float(slope), float(offset), float(1 - rest / spread) if spread > 0 else 1.0


def _saturating(x: Floats, error: Floats) -> tuple[float, float]:
    """Return slope and offset of log(-log(1 - error)) over log eps."""
    survival = -np.log1p(-error)
    slope, offset, _ = _line(x, np.log(survival), (1 - error) * survival**2 / error)
    return slope, offset


def _bootstrap(fallen: np.ndarray, x: Floats, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the exponent; fallen: bool [n, points]."""
    draws, found = np.random.default_rng(seed), []
    for _ in range(REPEATS):
        times = draws.multinomial(len(fallen), np.full(len(fallen), 1 / len(fallen)))
        error = times @ fallen / len(fallen)
        there = (error > 0) & (error < 1)
        if there.sum() >= 2:
            found.append(_line(x[there], np.log(error[there]), _weights(error[there]))[0])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
