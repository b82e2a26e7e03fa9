"""The plan of Adaptive Auto Attack: its stages, whom each attacks, and where its starts lean."""

import math
from typing import NamedTuple

from torch import Tensor

from harness.rng import Rng


class Stage(NamedTuple):
    """One stage.

    Args:
        share: of the samples that stand, those of least margin, which are attacked.
        steps: of ascent.
        turns: steps before them that lead to the start.
        restarts: how often.
    """

    share: float
    steps: int
    turns: int
    restarts: int = 1


OPENING = (Stage(1.0, 8, 0), Stage(1.0, 15, 7), Stage(1.0, 15, 7))

NARROW = (
    *OPENING,
    Stage(0.7, 32, 7), Stage(0.6, 37, 7), Stage(0.5, 37, 7), Stage(0.4, 42, 7), Stage(0.3, 47, 7), Stage(0.2, 52, 7),
    Stage(0.1, 57, 7), Stage(0.1, 57, 7, 4), Stage(0.065, 62, 7, 4), Stage(0.03, 67, 7, 50),
)  # fmt: skip
"""More and more steps for fewer and fewer samples."""

WIDE = (
    *OPENING,
    Stage(1.0, 15, 10, 10), Stage(1.0, 20, 15), Stage(1.0, 25, 15), Stage(1.0, 20, 10), Stage(1.0, 25, 10),
    Stage(1.0, 28, 10), Stage(1.0, 30, 10), Stage(0.8, 35, 10, 5), Stage(0.5, 45, 10, 5), Stage(0.5, 55, 10, 20),
)  # fmt: skip
"""Where the turns alone fool many: longer turns, and almost nobody is left out."""


def lengths(steps: int) -> list[float]:
    """Step sizes of an ascent as multiples of eps: half a cosine from 1 to 0.001, or to 0.1 for at most ten steps."""
    low = 0.1 if steps <= 10 else 0.001
    return [low + (1 - low) * (1 + math.cos(math.pi * i / (steps + 1))) / 2 for i in range(steps)]


def due(margin: Tensor, broken: Tensor, share: float, least: int) -> Tensor:
    """Positions, rising, of the share of the standing samples that is nearest to being fooled, at least `least`.

    Args:
        margin: float [B], the least so far.
        broken: bool [B].
    """
    standing = (~broken).nonzero().squeeze(1)
    count = min(max(least, int(len(standing) * share)), len(standing))
    nearest = margin[standing].argsort(stable=True)[:count]
    return standing[nearest].sort().values


class Leaning(NamedTuple):
    """Weights of two classes, as multiples of a tenth of the number of classes.

    Args:
        low, high: between which the weight of the true class is drawn.
        rival: weight of the class that it is this turn's, by rank on the clean image.
    """

    low: float
    high: float
    rival: float


def leaning(true: float, fallen: float, wide: bool, final: bool) -> Leaning:
    """Where starts lean after stage 1.

    Args:
        true, fallen: sums of the weights of the true class, and of the class they fell into, over the samples that
            were fooled from unbiased directions.
        wide: the turns alone fool many.
        final: one of the last stages.
    """
    if wide:
        return Leaning(0.0, 0.0, 0.8) if final else Leaning(-0.1, 0.5, 0.8)
    if final:
        return Leaning(-0.8, 0.1, 0.8)
    low, high = (-0.1, 0.5) if true > 0 else (-0.5, 0.1)
    return Leaning(low, high, 0.8 if fallen >= 0 else -0.8)


def directions(rng: Rng, classes: int, y: Tensor, rival: Tensor, lean: Leaning | None) -> Tensor:
    """Weights [b, classes] of the logits: uniform in [-1, 1), but for the true class and its rival where they lean."""
    weights = rng.uniform((classes,), -1, 1)
    if lean is None:
        return weights
    scale = classes / 10
    mine = scale * rng.stream("true").uniform((1,), lean.low, lean.high)
    return weights.scatter(1, y[:, None], mine).scatter(1, rival[:, None], scale * lean.rival)


def ranks(classes: int, final: bool) -> int:
    """How many of the best other classes take turns as the rival."""
    most = 14 if classes <= 100 else 20
    if classes <= 10:
        most = 4 if final else 9
    return min(most, classes - 1)
