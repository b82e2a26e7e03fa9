"""AdaEA: an ensemble whose weights and pixels follow what its members agree on."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, cross_entropy
from gauntlet.attacks.transfer.context import AttackContext, DrawView, GradientResult, Members
from gauntlet.attacks.transfer.ensemble_gradient import ordered
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class AdaEA(Knobs, key="attack.ensemble"):
    """AdaEA (Chen et al. 2023, arXiv 2308.02897), for two or more members.

    Adaptive gradient modulation: each member takes a trial step; its weight in the mean of the logits grows with what
    that step does to the losses of the others, relative to what their own steps do. Disparity-reduced filter: pixels
    on which the gradients of the members point in different directions keep their perturbation as it is. Each member
    sees a view of its own. A gradient costs K + K^2 forwards and 2 K backwards for K members.

    The released code differs from the paper: the sum over the other members is not divided by their number, the filter
    skips the last member but divides by all, and a pixel at the threshold passes. It also takes one set of weights for
    a whole batch, from mean losses; here weights belong to a sample in both forms.

    Args:
        beta: how sharply the weights follow the trial steps, >= 0; 0 leaves them equal.
        threshold: mean cosine above which a pixel is moved, in [-1, 1]; -1 moves nearly all.
        form: "paper" or "released".
    """

    beta: float = knob(10.0, least=0)
    threshold: float = knob(-0.3, least=-1, most=1)
    form: str = choice("paper", ("paper", "released"))

    def __call__(
        self, members: Members, draw_view: DrawView, context: AttackContext, z: Tensor, rng: Rng
    ) -> GradientResult:
        # The released filter knows a last member; without it the order cannot matter.
        ranked = tuple(m for m, _ in ordered(members)) if self.form == "paper" else members
        shown = [draw_view(member.head.name) for member in ranked]
        parts = [
            member.linearize(z, rng.stream(member.head.name), each.view)
            for member, each in zip(ranked, shown, strict=True)
        ]
        gradients = torch.stack([pull(context.cotangent(logits)) for logits, pull in parts])
        weights = self.weights(_losses(ranked, [context.stepped(z, g) for g in gradients], context, rng))
        logits = (weights[:, :, None] * torch.stack([logits for logits, _ in parts])).sum(0)
        direction = context.cotangent(logits)
        pulled = torch.stack(
            [pull(weight[:, None] * direction) for (_, pull), weight in zip(parts, weights, strict=True)]
        )
        plain = torch.stack([each.plain for each in shown]).all(0)
        return GradientResult(
            logits, plain, LogScaledGradient(pulled.sum(0) * self.passes(gradients), context.log_scale(logits))
        )

    def weights(self, losses: Tensor) -> Tensor:
        """Return the weights [K, B] from the losses [K, K, B] of member k at the trial step of member i."""
        count = len(losses)
        own = losses.diagonal().T[:, None].clamp_min(1e-6)  # [K, 1, B]
        ratio = (losses / own).clamp_max(50.0)  # bounded: the own loss of a robust member may be zero
        others = ~torch.eye(count, dtype=torch.bool, device=losses.device)[:, :, None]
        rise = self.beta * (ratio * others).sum(0)
        return (rise / (count - 1) if self.form == "paper" else rise).softmax(0)

    def passes(self, gradients: Tensor) -> Tensor:
        """Return which pixels are moved, in the dtype of the gradients [K, B, C, H, W]: zero or one, [B, 1, H, W]."""
        count = len(gradients)
        peak = gradients.abs().flatten(2).amax(2).clamp_min(torch.finfo(gradients.dtype).tiny)
        even = gradients / peak[:, :, None, None, None]
        pairs = cosine_similarity(even[:, None], even[None], dim=3, eps=1e-8)  # [K, K, B, H, W]
        mine = (pairs.sum(1) - pairs.diagonal().movedim(-1, 0)) / (count - 1)
        if self.form == "paper":
            return (mine.mean(0) > self.threshold).to(gradients.dtype)[:, None]
        return (mine[:-1].sum(0) / count >= self.threshold).to(gradients.dtype)[:, None]


def _losses(members: Members, trials: list[Tensor], context: AttackContext, rng: Rng) -> Tensor:
    """Return the cross-entropy [K, K, B] of member k at trial point i."""
    return torch.stack([
        torch.stack([
            cross_entropy(member.scores(trial, rng.stream(f"{member.head.name} at {taker.head.name}")), context.y)
            for taker, trial in zip(members, trials, strict=True)
        ])
        for member in members
    ])  # fmt: skip
