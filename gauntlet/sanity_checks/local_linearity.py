"""The margin of the deployed forward as a function of the pixels, its gradient, and how both change nearby."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.passes import BatchedPasses, RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim

STEPS = 10
"""Of the climb; each goes a tenth of the budget."""

NEAR = {"linf": 0.1, "l2": 0.1, "l1": 0.03}
"""Length of the differences as a share of the budget. Under l1 all of it goes into one pixel, so that a tenth would
leave the range in which a healthy network is linear: up to 52 % apart at a tenth, 9 % at 0.03 (benchmarks/flags.md)."""

TINY = torch.finfo(torch.float64).tiny
"""The least length that is divided by: logits x 1e-20 are as good as any."""


class LocalLinearity:
    """The gap z_t - z_y between the label and the runner-up t of the clean image.

    Random numbers are the same in every call, so that a randomized forward is one function too. Gradients are those of
    the deployed forward, not of its faster BN-fused copy.

    Args:
        batch_size: images of a pass, >= 1.

    Attributes:
        points: two random points of the ball for each image.
        starts: logits and gradient of the gap at these points.
    """

    def __init__(
        self, victim: Victim, threat: Threat, x: Tensor, y: Tensor, scores: Tensor, rng: Rng, batch_size: int
    ) -> None:
        self.x, self.y, self.rng = x, y, rng
        self.target = scores.scatter(1, y[:, None], -torch.inf).argmax(1)
        self.head = CountedHead(
            replace(victim.heads[0], draws=1), victim.predict, Counts.of(rng.ids), passes=BatchedPasses(batch_size)
        )
        self._cotangent = RowLoss(_of_gap, y, self.target)
        self.threat = threat
        if threat.norm not in NEAR or threat.unbounded:  # neither l0 nor a patch nor the box says what is near
            self.threat = Threat("linf", 8 / 255 * (threat.high - threat.low), threat.low, threat.high)
        self.points = [self.threat.random(self.x, self.rng.stream(f"start{k}")) for k in range(2)]

    @cached_property
    def starts(self) -> list[tuple[Tensor, Tensor]]:
        return [self.pull(point, self._cotangent) for point in self.points]

    def pull(self, z: Tensor, cotangent: RowLoss) -> tuple[Tensor, Tensor]:
        """Return the logits [B, K] at z and the pulled-back cotangent."""
        return self.head.gradient(z, cotangent, self.rng)

    def gap(self, logits: Tensor) -> Tensor:
        """Return z_t - z_y, float64 [B]."""
        return (logits.gather(1, self.target[:, None]) - logits.gather(1, self.y[:, None])).squeeze(1).double()

    def directions(self) -> Iterator[Tensor]:
        """Yield the direction of the gradient at the image, and a random one; of unit length in the threat's norm."""
        yield self.threat.steepest(self.pull(self.x, self._cotangent)[1])
        yield self.threat.steepest(self.rng.stream("direction").normal(tuple(self.x.shape[1:]), dtype=self.x.dtype))

    def mismatch(self, direction: Tensor, share: float = 1.0) -> float:
        """Return |a - b| / (|a| + |b|) of derivatives along a direction by autograd and by differences, per image.

        NaN where both are zero. share: of the usual length of the differences.
        """
        step = share * NEAR.get(self.threat.norm, 0.1) * self.threat.budget(self.x) * direction
        widest = step.abs()
        middle = torch.minimum(torch.maximum(self.x, self.threat.low + widest), self.threat.high - widest)
        expected = (self.pull(middle, self._cotangent)[1].double() * step.double()).flatten(1).sum(1)
        ahead, behind = (self.gap(self.head.scores(middle + sign * step, self.rng)) for sign in (1, -1))
        seen = (ahead - behind) / 2
        if not (seen.any() or expected.any()):
            return math.nan
        return float((seen - expected).norm() / (seen.norm() + expected.norm()).clamp_min(TINY))

    def climb(self) -> Tensor:
        """Return the gap at the image and after each of `STEPS` steps along its gradient, [STEPS + 1, B]."""
        z, values = self.x, []
        for _ in range(STEPS):
            logits, gradient = self.pull(z, self._cotangent)
            values.append(self.gap(logits))
            z = self.threat.project(z + self.threat.budget(self.x) / STEPS * self.threat.steepest(gradient), self.x)
        return torch.stack([*values, self.gap(self.head.scores(z, self.rng))])


def _of_gap(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the gradient of the gap with respect to the logits."""
    up = torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)
    return up.scatter_(1, y[:, None], -1.0)
