"""An interval of a mean that holds at all numbers of samples together, so that a look at it may end the sampling.

Averaged over q with a uniform law, the likelihood ratio of q against the true mean p is a martingale that starts at 1
(a supermartingale for numbers in [0, 1] that are no coins, since x -> (q/p)^x ((1-q)/(1-p))^(1-x) is convex). By
Ville's inequality it ever reaches 1/alpha with probability at most alpha (Robbins, "Statistical methods related to the
law of the iterated logarithm", 1970; Howard et al., arXiv 1810.08240). Imports no torch.
"""

import math
from collections.abc import Callable

from scipy import special

from gauntlet.evidence.manifest import StopFacts

STEPS = 60
"""Halvings in search of an end, which leave less than 1e-17."""


def anytime(total: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval that holds the mean with at least this confidence at all numbers of samples together; (0, 1)
    without any.

    >>> [round(end, 4) for end in anytime(700, 1000)]
    [0.6505, 0.7459]

    Args:
        total: sum of numbers in [0, 1]: how many samples are robust, or their shares.
        samples: how many numbers.
    """
    if not samples:
        return 0.0, 1.0
    middle, limit = total / samples, -math.log(1 - confidence)

    def inside(mean: float) -> bool:
        return evidence(total, samples, mean) < limit

    return _end(middle, 0.0, inside), _end(middle, 1.0, inside)


def evidence(total: float, samples: int, mean: float) -> float:
    """Return the logarithm of the martingale against a mean in [0, 1]; infinite where the numbers cannot have it."""
    other = samples - total
    if (total > 0 and mean <= 0) or (other > 0 and mean >= 1):
        return math.inf
    against = (total * math.log(mean) if total > 0 else 0.0) + (other * math.log1p(-mean) if other > 0 else 0.0)
    return float(special.betaln(1 + total, 1 + other)) - against


def stop_words(facts: StopFacts) -> str:
    """Return why a run that looked at its interval ended where it did."""
    half, asked = (facts["high"] - facts["low"]) / 2, facts["interval"]
    said = f"at ±{half:.3f}, ±{asked:g} asked; the interval holds however often one looked"
    if facts["images"] < facts["of"]:
        return f"after {facts['images']:,} of {facts['of']:,} images in random order, {said}"
    return f"after all {facts['of']:,} images, {said}"


def _end(middle: float, edge: float, inside: Callable[[float], bool]) -> float:
    """Return where the interval around `middle` ends on the side of `edge`, rounded away from it."""
    if inside(edge):
        return edge
    near, far = middle, edge
    for _ in range(STEPS):
        half = (near + far) / 2
        near, far = (half, far) if inside(half) else (near, half)
    return far
