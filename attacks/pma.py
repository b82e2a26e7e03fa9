"""Probability margin attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_ascent
from gauntlet.attacks.losses import Cotangent, ce, pm, rival_probability, temperature_scaled, true_probability
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

TRUE, RIVAL, MARGIN = temperature_scaled(ce), temperature_scaled(rival_probability), temperature_scaled(pm)
"""-p_y, whose direction is that of cross-entropy; p_m; p_m - p_y."""


@dataclass(frozen=True)
class PMA(Knobs, key="attack"):
    """Probability margin attack (arXiv 2411.15210), without softmax saturation.

    A run of `steps` steps first pushes one of the two probabilities of the margin, -p_y or p_m, then their difference
    p_m - p_y. The cotangents are closed forms (see attacks/losses.py), so confident samples still have a gradient, and
    where logits are so far apart that all of these become one and the same, they are scaled by a temperature first.

    Under l1 the steps are those of Auto-PGD, whose lengths adapt (`gauntlet.attacks.apgd_l1`).

    The two schedules differ as the paper and its released code do:
    "released": a restart is two runs from fresh noise, the first on -p_y and the second on p_m; step 0 maximizes p_y;
        the step size is a cosine from 2 eps to 0 over the first half, and again over the second.
    "paper": a restart is one run, on p_m and -p_y by turns; one cosine from 2 eps to 0.

    Args:
        steps: per run, >= 2; even.
        restarts: >= 1.
        schedule: "released" or "paper".

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    revisions: ClassVar[dict[str, int]] = {"l1": 2}  # version 1 moved 5 % of the entries

    steps: int = knob(100, least=2)
    restarts: int = knob(1, least=1)
    schedule: str = choice("released", ("released", "paper"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps % 2:
            raise UserError(f"attack.steps={self.steps} must be even: half of them go to each phase")

    def lengths(self) -> list[float]:
        """Step sizes of a run as multiples of eps."""
        if self.schedule == "paper":
            return [1 + math.cos(math.pi * i / self.steps) for i in range(self.steps)]
        return two_cosines(self.steps)

    def plan(self, first: Cotangent) -> list[Step]:
        """Return the steps of a run whose first phase is on `first`."""
        start = true_probability if self.schedule == "released" else first
        return two_phases((start, first, MARGIN), self.lengths())

    def runs(self) -> list[list[Step]]:
        """Return the plans of all runs, in order."""
        if self.schedule == "released":
            return [self.plan(first) for _ in range(self.restarts) for first in (TRUE, RIVAL)]
        return [self.plan((RIVAL, TRUE)[number % 2]) for number in range(self.restarts)]

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        for number, plan in enumerate(self.runs()):
            index = (~best.broken).nonzero().squeeze(1)
            if not len(index):
                break
            below, around = rng.select(index).stream(number), threat.select(index)
            start = around.random(x[index], below.stream("start"))
            walk = sparse_ascent if threat.norm == "l1" else ascend
            walk(head, x[index], y[index], start, plan, best, index, threat=around, rng=below)
        return best.z


def two_cosines(steps: int) -> list[float]:
    """Step sizes as multiples of eps: from 2 to 0 over the first half and again over the second, each a step late."""
    half = steps // 2
    since = [i - 1 if i <= half else i - half - 1 for i in range(steps)]
    return [1 + math.cos(math.pi * i / (steps - half)) for i in since]


def two_phases(losses: tuple[Cotangent, Cotangent, Cotangent], lengths: list[float]) -> list[Step]:
    """Return one step on the first loss, then on the second until half the steps are made, then on the third."""
    half = len(lengths) // 2
    start, first, last = losses
    order = [start] + [first] * (half - 1) + [last] * (len(lengths) - half)
    return [Step(loss, length) for loss, length in zip(order, lengths, strict=True)]
