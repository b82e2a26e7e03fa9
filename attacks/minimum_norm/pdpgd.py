"""PDPGD: primal-dual proximal gradient descent."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin
from gauntlet.attacks.minimum_norm.minimum_norm_loop import StepResult, minimize_norm, unit, wide
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

MOMENTS = (0.9, 0.999)
"""Decay of the two moments of the gradient, as in Adam (arXiv 1412.6980)."""

FIRST_DUAL = math.log(10.0)
"""Logarithm of the first weight of the margin over that of the distance."""

SETTLED = 0.01
"""Relative change below which the proximal operator counts as found."""

LEAST_RATIO = 1e-6
"""The weights of distance and margin stay within this ratio of each other."""


@dataclass(frozen=True)
class PDPGD(Knobs, key="attack"):
    """Primal-dual proximal gradient descent (Matyasko and Chau 2021, arXiv 2106.01538) for linf, l2 and l1.

    The primal step descends on softplus(true logit - best other logit), with the moments of Adam, and then applies the
    proximal operator of the norm in the metric of those moments. The dual step raises the weight of the margin while
    the point does not fool the victim, and lowers it while it does. Logits and gradients are measured in units of those
    at the clean image, so that their scale does not matter. The nearest adversarial example is the answer. Cost: one
    forward and one backward a step, and ten forwards to refine.

    Args:
        steps: >= 1.
        step_size: of the first primal step, in pixel units, > 0; it falls geometrically to one percent.
        dual_step: of the logarithm of the weight, > 0; it falls linearly to a tenth.
        memory: share of the weights that is kept when they are averaged over the steps, in [0, 1).
        inner: most steps to the proximal operator in the metric of the moments, >= 1; they cost no pass.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    unbounded: ClassVar[bool] = True

    steps: int = knob(990, least=1)
    step_size: float = knob(0.1, above=0)
    dual_step: float = knob(0.1, above=0)
    memory: float = knob(0.9, least=0, below=1)
    inner: int = knob(5, least=1)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        none = x.new_zeros(len(x))
        dual = none + FIRST_DUAL
        start = PDPGDState(x, 0 * x, 0 * x, none, none, dual, dual.sigmoid())
        return minimize_norm(head, x, y, start, self._advance, self.steps, loss=margin, threat=threat, rng=rng)

    def _advance(self, state: "PDPGDState", result: StepResult) -> tuple["PDPGDState", Tensor]:
        x, threat = result.x, result.threat
        now = result.gap.to(x.dtype)
        tiny = torch.finfo(x.dtype).tiny
        gap, peak = (state.gap, state.peak) if result.number else (now.abs(), result.gradient.flatten(1).abs().amax(1))
        force = -torch.sigmoid(now / gap.clamp_min(tiny)) / peak.clamp_min(tiny)
        gradient = wide(force, x) * result.gradient
        first = MOMENTS[0] * state.first + (1 - MOMENTS[0]) * gradient
        second = MOMENTS[1] * state.second + (1 - MOMENTS[1]) * gradient.square()
        count = result.number + 1
        metric = (second / (1 - MOMENTS[1] ** count)).sqrt() + 1e-8
        length = self.step_size * 0.01**result.share
        z = (state.z - length / (1 - MOMENTS[0] ** count) * first / metric).clamp(threat.low, threat.high)
        stiff = metric.flatten(1).amax(1)
        pull = (1 - state.weight) / state.weight * length / stiff
        z, taken = _proximal(z, x, metric / wide(stiff, x), pull, threat, self.inner, result.rounds or self.inner)
        dual_step = self.dual_step * (1 - 0.9 * result.share)
        bound = -math.log(LEAST_RATIO)
        dual = (state.dual + torch.where(result.broken, -dual_step, dual_step)).clamp(-bound, bound)
        weight = self.memory * state.weight + (1 - self.memory) * torch.sigmoid(dual)
        return PDPGDState(z, first, second, gap, peak, dual, weight), taken


class PDPGDState(NamedTuple):
    z: Tensor
    first: Tensor  # moments of the gradient
    second: Tensor
    gap: Tensor  # clean half margin and largest entry of the clean gradient: the units
    peak: Tensor
    dual: Tensor  # logarithm of the weight of the margin over that of the distance
    weight: Tensor  # of the margin, averaged over the steps, in (0, 1)

    def select(self, index: Tensor) -> "PDPGDState":
        return PDPGDState(*(part[index] for part in self))


def _proximal(
    z: Tensor, x: Tensor, metric: Tensor, pull: Tensor, threat: Threat, steps: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """Return the u in the box that minimizes <u - z, metric (u - z)> / 2 + pull ||u - x||, by proximal gradient steps,
    and how many steps it takes, [B].

    A sample whose last step changed its move by less than `SETTLED` of it makes no more. metric: in (0, 1]; pull: [B];
    rounds: of the steps, to be made now.
    """
    u, active, taken = z, torch.ones_like(pull, dtype=torch.bool), torch.ones_like(pull)
    for _ in range(min(steps, rounds)):
        delta = shrink(u - metric * (u - z) - x, pull, threat.norm)
        new = (x + delta).clamp(threat.low, threat.high)
        change, length = ((new - other).flatten(1).norm(dim=1) for other in (u, x))
        u = torch.where(wide(active, u), new, u)
        active = active & (change > SETTLED * length)
        taken += active
    return u, taken.clamp_max(steps)


def shrink(delta: Tensor, pull: Tensor, norm: str) -> Tensor:
    """Return the proximal operator of a norm: the d that minimizes ||d - delta||^2 / 2 + pull ||d||.

    Args:
        delta: [B, C, H, W].
        pull: >= 0, [B].
        norm: linf, l2 or l1.
    """
    if norm == "l1":
        return delta.sign() * (delta.abs() - wide(pull, delta)).clamp_min(0)
    if norm == "l2":
        length = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return unit(delta) * wide((length - pull).clamp_min(0), delta)
    return delta.sign() * delta.abs().minimum(wide(_level(delta.flatten(1).abs(), pull), delta))


def _level(size: Tensor, pull: Tensor) -> Tensor:
    """Return the level >= 0 above which the entries of a row add up to `pull`, [B]; zero where all of them do not reach
    it.
    """
    ordered = size.sort(dim=1, descending=True).values
    counts = torch.arange(1, size.shape[1] + 1, device=size.device, dtype=size.dtype)
    levels = (ordered.cumsum(1) - pull[:, None]) / counts
    last = (ordered > levels).sum(1).clamp_min(1) - 1
    return levels.gather(1, last[:, None]).squeeze(1).clamp_min(0)
