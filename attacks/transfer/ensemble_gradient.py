"""One gradient of several networks."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, weighted_sum
from gauntlet.attacks.transfer.context import AttackContext, DrawView, GradientResult, Members
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng


class Combination(Protocol):
    """How the gradients of several networks become one."""

    def __call__(
        self, members: Members, draw_view: DrawView, context: AttackContext, z: Tensor, rng: Rng
    ) -> GradientResult:
        """Return the gradient at z [B, C, H, W] of what the members see."""


def alone(members: Members, draw_view: DrawView, context: AttackContext, z: Tensor, rng: Rng) -> GradientResult:
    """Return the gradient of the only member."""
    shown = draw_view("")
    logits, direction = members[0].gradient(z, context.cotangent, rng, shown.view)
    return GradientResult(logits, shown.plain, LogScaledGradient(direction, context.log_scale(logits)))


@dataclass(frozen=True)
class Ensemble(Knobs, key="attack.ensemble"):
    """A fixed ensemble (Liu et al. 2017, arXiv 1611.02770): all members see the same view of the image.

    The result does not depend on the order of the members. One forward and one backward of each member a gradient.

    Args:
        kind: "logits", the loss of the mean logits; "probabilities", of the mean probabilities; "losses", the mean of
            the losses.
        weights: of the members, in their order, > 0; empty: equal.
        standardise: divide each member's logits by their standard deviation over the classes (taken as constant), so
            that a member with large logits does not speak for all.
    """

    kind: str = choice("logits", ("logits", "probabilities", "losses"))
    weights: tuple[float, ...] = ()
    standardise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError(f"attack.ensemble.weights={list(self.weights)} must be positive numbers")

    def __call__(
        self, members: Members, draw_view: DrawView, context: AttackContext, z: Tensor, rng: Rng
    ) -> GradientResult:
        ranked = ordered(members, self.weights)
        shown = draw_view("")
        parts = [member.linearize(z, rng.stream(member.head.name), shown.view) for member, _ in ranked]
        raw = torch.stack([logits for logits, _ in parts])  # [M, B, K]
        weight = raw.new_tensor([w for _, w in ranked])
        scale = _spread(raw) if self.standardise else torch.ones_like(raw[:, :, :1])
        logits = raw / scale
        cotangents, logs = _split(self.kind, logits, weight, context)
        gradients = [
            (1.0, LogScaledGradient(pull(direction), log))
            for (_, pull), direction, log in zip(parts, cotangents / scale, logs, strict=True)
        ]
        return GradientResult((weight[:, None, None] * logits).sum(0), shown.plain, weighted_sum(*gradients))


def ordered(members: Members, weights: tuple[float, ...] = ()) -> list[tuple[CountedHead, float]]:
    """Return the members in the order of their names, with weights that sum to one.

    Raises:
        UserError: the number of weights is not that of the members.
    """
    if weights and len(weights) != len(members):
        raise UserError(
            f"attack.ensemble.weights has {len(weights)} numbers for {len(members)} surrogates; give one for each"
        )
    given = weights or (1.0,) * len(members)
    total = sum(given)
    pairs = [(member, weight / total) for member, weight in zip(members, given, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0].head.name)


def _split(kind: str, logits: Tensor, weight: Tensor, context: AttackContext) -> tuple[Tensor, Tensor]:
    """Return the cotangent [M, B, K] of each member and the logarithm [M, B] of its length."""
    if kind == "logits":
        mean = (weight[:, None, None] * logits).sum(0)
        directions = weight[:, None, None] * context.cotangent(mean)
        return directions, context.log_scale(mean).expand(len(weight), -1)
    directions = torch.stack([context.cotangent(one) for one in logits])
    logs = torch.stack([context.log_scale(one) for one in logits]) + weight.log()[:, None]
    if kind == "losses":
        return directions, logs
    # d/dx log sum_m w_m p_m = sum_m (w_m p_m / sum_j w_j p_j) d/dx log p_m, p that of the class aimed at
    log_probabilities = logits.log_softmax(2).gather(2, context.aim.expand(len(weight), -1)[:, :, None]).squeeze(2)
    return directions, logs + log_probabilities - (weight.log()[:, None] + log_probabilities).logsumexp(0)


def _spread(logits: Tensor) -> Tensor:
    return logits.std(dim=2, keepdim=True, correction=0).clamp_min(torch.finfo(logits.dtype).tiny)
