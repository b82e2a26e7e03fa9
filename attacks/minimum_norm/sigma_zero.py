"""sigma-zero: sparse adversarial examples."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin
from gauntlet.attacks.minimum_norm.minimum_norm_loop import StepResult, minimize_norm, wide
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

MOMENTS = (0.9, 0.999)
"""Decay of the two moments of the gradient, as in Adam (arXiv 1412.6980)."""

WEIGHT = 10.0
"""Largest entry of the clean gradient of the margin, beside that of the count of pixels, which is below one."""


@dataclass(frozen=True)
class SigmaZero(Knobs, key="attack"):
    """sigma-zero (Cina et al. 2024, arXiv 2402.01879) for l0.

    Descends, with the moments of Adam, on the margin while the victim is right plus a smooth count of the changed
    pixels, mean of s / (s + sigma), where s is the squared length of a pixel's change; the gradient is scaled to
    largest entry one. After each step every pixel whose largest change is below a threshold goes back to the image; the
    threshold rises where the point fools the victim and falls where it does not. The nearest adversarial example is the
    answer.

    The paper counts entries, the threat counts pixels: all channels of a pixel are kept or dropped together, which is
    the same for one channel. The margin is measured in units of its clean gradient, so the scale of the logits does not
    matter. Cost: one forward and one backward a step.

    Args:
        steps: >= 1.
        step_size: of the first step, in pixel units, > 0; it falls like a cosine to a tenth.
        sigma: below which a squared change hardly counts, > 0.
        threshold: the first one, in (0, 1).
        rate: change of the threshold as a share of the step size, > 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    unbounded: ClassVar[bool] = True

    steps: int = knob(1000, least=1)
    step_size: float = knob(1.0, above=0)
    sigma: float = knob(0.001, above=0)
    threshold: float = knob(0.3, above=0, below=1)
    rate: float = knob(0.01, above=0)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        none = x.new_zeros(len(x))
        start = SigmaZeroState(x, 0 * x, 0 * x, none, none + self.threshold)
        return minimize_norm(head, x, y, start, self._advance, self.steps, loss=margin, threat=threat, rng=rng)

    def _advance(self, state: "SigmaZeroState", result: StepResult) -> tuple["SigmaZeroState", None]:
        x, threat = result.x, result.threat
        peak = state.peak if result.number else result.gradient.flatten(1).abs().amax(1)
        gradient = _unit_peak(self._gradient(state, result, peak))
        first = MOMENTS[0] * state.first + (1 - MOMENTS[0]) * gradient
        second = MOMENTS[1] * state.second + (1 - MOMENTS[1]) * gradient.square()
        count = result.number + 1
        metric = (second / (1 - MOMENTS[1] ** count)).sqrt() + 1e-8
        length = self.step_size * (0.1 + 0.9 * result.cosine)
        z = (state.z - length / (1 - MOMENTS[0] ** count) * first / metric).clamp(threat.low, threat.high)
        change = torch.where(result.broken, self.rate * length, -self.rate * length)
        threshold = (state.threshold + change).clamp(0, 1)
        keep = (z - x).abs().amax(1, keepdim=True) >= wide(threshold, x)
        return SigmaZeroState(torch.where(keep, z, x), first, second, peak, threshold), None

    def _gradient(self, state: "SigmaZeroState", result: StepResult, peak: Tensor) -> Tensor:
        """Return the gradient of what is descended on."""
        delta, sigma = state.z - result.x, self.sigma
        size = delta.square().sum(1, keepdim=True)
        count = 2 * sigma * delta / (size + sigma).square() / size[0].numel()
        away = result.gradient / wide(peak.clamp_min(torch.finfo(peak.dtype).tiny), delta)
        return count - torch.where(wide(result.gap > 0, delta), WEIGHT * away, 0.0)


class SigmaZeroState(NamedTuple):
    z: Tensor
    first: Tensor  # moments of the gradient
    second: Tensor
    peak: Tensor  # largest entry of the clean gradient
    threshold: Tensor

    def select(self, index: Tensor) -> "SigmaZeroState":
        return SigmaZeroState(*(part[index] for part in self))


def _unit_peak(gradient: Tensor) -> Tensor:
    """Scaled to largest entry one."""
    return gradient / wide(gradient.flatten(1).abs().amax(1).clamp_min(1e-12), gradient)
