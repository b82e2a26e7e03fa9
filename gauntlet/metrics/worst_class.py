"""The class with the lowest robust accuracy, and an interval for the lowest of all classes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gauntlet.metrics.confidence import lower, upper


class WorstClass(NamedTuple):
    """The class of the lowest accuracy among the samples, and where the lowest accuracy of any class lies.

    The interval holds with the stated confidence for the smallest of the true accuracies, whichever class has it: all
    classes' Clopper-Pearson intervals hold together (Bonferroni), so that picking the lowest costs nothing.
    """

    label: int
    robust: int
    samples: int
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        return self.robust / self.samples


def worst_class(counts: Mapping[int, tuple[int, int]], confidence: float = 0.95) -> WorstClass | None:
    """Return the class of the lowest robust accuracy; the first of equal ones, None without a class.

    Args:
        counts: label -> (samples, those that are robust).
    """
    known = {label: pair for label, pair in sorted(counts.items()) if pair[0]}
    if not known:
        return None
    samples, robust = np.array(list(known.values())).T
    label = list(known)[int(np.argmin(robust / samples))]
    side = (1 - confidence) / (2 * len(known))
    low, high = lower(robust, samples, side).min(), upper(robust, samples, side).min()
    return WorstClass(label, known[label][1], known[label][0], (float(low), float(high)))
