"""Local intrinsic dimension (LID), and what lies near the median of it. Imports no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import UserError


def intrinsic_dimension(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the LID of each point by maximum likelihood, [n].

    LID = -(1/k sum_i ln(r_i / r_k))^-1 with the distances r_1 <= ... <= r_k to the k nearest other points (Amsaleg et
    al., KDD 2015; Ma et al. 2018, arXiv 1801.02613, equation 4). Of points that are uniform in a ball of d dimensions
    around x it is d k / (k - 2) in the mean. Copies of a point, at distance 0, say nothing and are left out; a point
    that has nothing else near has LID 0, one whose neighbors are all equally far an infinite one.

    Args:
        distances: to the nearest others, in rising order, [n, k] with k >= 2.
    """
    found = np.where(distances > 0, distances, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.nansum(np.log(distances[:, -1:] / found), axis=1)
        return np.asarray(np.where(distances[:, -1] > 0, (distances > 0).sum(1) / total, 0.0))


class NearMedian(NamedTuple):
    """What lies within some median absolute deviations (MAD) of the median.

    Attributes:
        kept: bool [n].
        median: of the values.
        deviation: MAD, the median of |value - median|.
    """

    kept: NDArray[np.bool_]
    median: float
    deviation: float

    @classmethod
    def of(cls, values: NDArray[np.float64], most: float) -> "NearMedian":
        """Return which values [n] lie within `most` deviations of their median.

        Raises:
            UserError: more than half of them are infinite, or the same, so that nothing can be told apart.
        """
        median = float(np.median(values))
        with np.errstate(invalid="ignore"):
            away = np.abs(values - median)
        deviation = float(np.median(away))
        if not (np.isfinite(deviation) and deviation > 0):
            raise UserError(
                f"the median of the dimensions is {median:g} and half of them deviate by {deviation:g} from it: "
                "copies, or features without content; give other features, or more neighbors"
            )
        return cls(away <= most * deviation, median, deviation)
