"""Robust accuracy over a long range of eps, and what of it no model can have. Imports no torch.

An adversarial example at a small eps is one at every larger eps, so that what an attack leaves at a large eps, and
another run breaks within a smaller one, is a failure of the attack. Once the balls around all images have a point in
common, a model gives that point one class: its robust accuracy is at most the share of the most frequent class.
Accuracy beyond either is spurious, and a sign of masked gradients (Athalye et al. 2018, arXiv 1802.00420, section 3.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.metrics.perturbation_size import Floats, reach

BY_DIMENSIONS = {"linf": 0.0, "l2": 0.5, "l1": 1.0}
"""Norm -> p, where the center of a box of side s is within s d^p / 2 of all its points, d dimensions."""


@dataclass(frozen=True)
class LongRange:
    """What the runs of one attack leave as eps grows, shares of all images.

    Attributes:
        eps: rising.
        left: by the run at that eps alone.
        within: by all runs within that eps, those of other attacks among them.
        ceiling: what any model can have at that eps.
    """

    eps: tuple[float, ...]
    left: tuple[float, ...]
    within: tuple[float, ...]
    ceiling: tuple[float, ...]

    @property
    def spurious(self) -> tuple[float, ...]:
        """Return what of `left` no model has: at least this share of the images is left by a failure of the attack."""
        return tuple(
            max(left - min(within, most), 0.0)
            for left, within, most in zip(self.left, self.within, self.ceiling, strict=True)
        )

    @property
    def rises(self) -> tuple[int, ...]:
        """Return the places at which the run leaves more than the one at the eps before."""
        return tuple(i for i in range(1, len(self.left)) if self.left[i] > self.left[i - 1])


def common_eps(norm: str, dimensions: int | None, low: float = 0.0, high: float = 1.0) -> float:
    """Return the eps from which all balls inside the box share its center; infinite where that is not known.

    >>> common_eps("linf", None), common_eps("l2", 64), common_eps("l2", None)
    (0.5, 4.0, inf)
    """
    power = BY_DIMENSIONS.get(norm)
    if power is None or (power and dimensions is None):
        return math.inf
    return float((high - low) / 2 * (dimensions or 1) ** power)


def long_range(
    runs: Sequence[tuple[float, Floats]], others: Sequence[Floats], common: float, largest_class: float
) -> LongRange:
    """Return what the runs of one attack leave at each eps.

    Args:
        runs: of one attack: eps, and the distance of each image [n], 0 where it is wrong as it is and infinite where
            nothing was found. Several of one eps are one.
        others: the same of all other runs on these images.
        common: see `common_eps`.
        largest_class: share of the images of the most frequent class.
    """
    eps = sorted({radius for radius, _ in runs})
    own = {each: np.min([distance for radius, distance in runs if radius == each], axis=0) for each in eps}
    best = np.min([*(distance for _, distance in runs), *others], axis=0)
    return LongRange(
        tuple(eps),
        tuple(float((own[each] > reach(each)).mean()) for each in eps),
        tuple(float((best > reach(each)).mean()) for each in eps),
        tuple(largest_class if each >= common else 1.0 for each in eps),
    )
