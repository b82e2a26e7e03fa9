"""The learning rate as a function of progress; without state, so that nothing has to be resumed."""

import math
from collections.abc import Sequence

SHAPES = ("cosine", "step", "linear", "constant")


def factor(shape: str, progress: float, *, milestones: Sequence[float] = (), warmup: float = 0.0) -> float:
    """The multiple of the learning rate for the step that begins at `progress`.

    Args:
        shape: cosine or linear (from 1 to 0 after the warm-up), step (a tenth at each milestone) or constant. The
            cyclic rate of fast adversarial training (arXiv 2001.03994) is linear with a warm-up of a half.
        progress: share of all steps that are done, in [0, 1).
        milestones: shares in (0, 1).
        warmup: share of the steps over which the rate rises linearly, in [0, 1).
    """
    if progress < warmup:
        return progress / warmup
    if shape == "cosine":
        return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    if shape == "linear":
        return (1 - progress) / (1 - warmup)
    if shape == "step":
        return 0.1 ** sum(progress >= milestone for milestone in milestones)
    return 1.0
