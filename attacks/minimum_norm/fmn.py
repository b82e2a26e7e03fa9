"""FMN: fast minimum-norm attack."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin
from gauntlet.attacks.minimum_norm.minimum_norm_loop import StepResult, dual_norm, farthest, minimize_norm, unit
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

REACH = {"linf": 10.0, "l2": 1.0, "l1": 10.0, "l0": 1.0}
"""Factor of the step size by norm."""


@dataclass(frozen=True)
class FMN(Knobs, key="attack"):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827) for linf, l2, l1 and l0.

    Each step goes along the gradient of the margin and is projected to a ball of a radius of its own. Before the first
    adversarial example the radius reaches a little beyond the boundary as the gradient sees it; then it shrinks where
    the point fools the victim and grows where it does not, by ever less. The nearest adversarial example is the answer.
    l0 counts pixels: all channels of a pixel move together. Cost: one forward and one backward a step, and ten forwards
    to refine.

    Args:
        steps: >= 1.
        step_size: Euclidean length of the first step, > 0, in pixel units and ten times these for linf and l1; it falls
            like a cosine to one percent.
        rate: share by which the radius changes at first, in (0, 1); it falls like a cosine to `last_rate`.
        last_rate: in (0, rate].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = Threat.NORMS
    unbounded: ClassVar[bool] = True

    steps: int = knob(990, least=1)
    step_size: float = knob(1.0, above=0)
    rate: float = knob(0.05, above=0, below=1)
    last_rate: float = knob(0.001, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_rate > self.rate:
            raise UserError(
                f"attack.last_rate={self.last_rate} must be at most attack.rate={self.rate}: the rate falls to it"
            )

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        first = 1.0 if threat.norm == "l0" else math.inf
        start = FMNState(x, x.new_full((len(x),), first), farthest(x, threat))
        return minimize_norm(head, x, y, start, self._advance, self.steps, loss=margin, threat=threat, rng=rng)

    def _advance(self, state: "FMNState", result: StepResult) -> tuple["FMNState", Tensor | None]:
        rate = self.last_rate + (self.rate - self.last_rate) * result.cosine
        resized = state.pixels(result, rate) if result.threat.norm == "l0" else state.radius(result, rate)
        eps = resized.minimum(state.most)
        length = self.step_size * REACH[result.threat.norm] * (0.01 + 0.99 * result.cosine)
        z, taken = result.projected(result.threat.within(eps), state.z + length * unit(result.gradient))
        return state._replace(z=z, eps=eps), taken


class FMNState(NamedTuple):
    z: Tensor
    eps: Tensor  # radius of the ball
    most: Tensor  # radius that covers the box

    def select(self, index: Tensor) -> "FMNState":
        return FMNState(*(part[index] for part in self))

    def radius(self, result: StepResult, rate: float) -> Tensor:
        best, far, gap = (values.to(self.eps.dtype) for values in (result.best, result.distance, result.gap))
        # The paper goes to the boundary itself, which a linear victim is then never pushed across.
        ahead = far + gap.abs() / dual_norm(result.gradient, result.threat.norm)
        missed = torch.where(best.isfinite(), self.eps, ahead) * (1 + rate)
        return torch.where(result.broken, (self.eps * (1 - rate)).minimum(best), missed)

    def pixels(self, result: StepResult, rate: float) -> Tensor:
        fewer = (self.eps - 1).minimum((self.eps * (1 - rate)).floor()).minimum(result.best.to(self.eps.dtype))
        more = (self.eps + 1).maximum((self.eps * (1 + rate)).floor())
        return torch.where(result.broken, fewer, more).clamp_min(1)
