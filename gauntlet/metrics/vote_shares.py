"""How the shares of votes for the certified class are distributed, beside the average radius. Imports no torch.

Phi^-1 grows without bound near one, so a few images that no noise ever moves can make most of an average radius, while
it says nothing of those near one half: a classifier that is right nowhere else can have the largest average (Sun et
al., "Average certified radius is a poor metric for randomized smoothing", arXiv 2410.06895).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EDGES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999)
"""Lower ends of the bins of a histogram; the last one ends at 1."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class VoteShares(NamedTuple):
    """Shares p_A of the draws behind the bound that are for the class; of two networks that vote, their mean.

    `of_right` are those of the images that are predicted right, in [0, 1], ordered; `samples` counts all images.
    """

    of_right: NDArray[np.float64]
    samples: int

    def histogram(self) -> list[tuple[str, int]]:
        """Return bins in words with their images, first those that are wrong or without a prediction.

        >>> VoteShares(np.array([0.55, 0.9, 0.9995, 1.0]), 5).histogram()[:2]
        [('wrong', 1), ('< 0.6', 1)]
        """
        counts, _ = np.histogram(self.of_right, [*EDGES, 1.0])
        words = [f"< {edge:g}" for edge in EDGES[1:]] + [f"≥ {EDGES[-1]:g}"]
        return [("wrong", self.samples - len(self.of_right)), *zip(words, counts.tolist(), strict=True)]

    def quantiles(self) -> list[tuple[float, float]]:
        """Return quantiles of the shares of the images that are right; empty where there are none."""
        if not len(self.of_right):
            return []
        found = np.quantile(self.of_right, QUANTILES, method="inverted_cdf")
        return list(zip(QUANTILES, found.tolist(), strict=True))


def concentration(radius: NDArray[np.float64], part: float = 0.1) -> float:
    """Return what the part of the images with the largest radii contributes to the average radius.

    Args:
        radius: of all images [n], not positive where nothing is certified.
        part: of the images, in (0, 1], rounded up.

    Returns:
        A share in [0, 1]; 0 where nothing is certified. Where all radii are equal it is `part`.

    >>> concentration(np.array([3.0] + [0.5] * 6 + [-1.0] * 3))
    0.5
    """
    ordered = np.sort(np.maximum(radius, 0))[::-1]
    total = float(ordered.sum())
    return float(ordered[: int(np.ceil(part * len(ordered) - 1e-9))].sum()) / total if total else 0.0
