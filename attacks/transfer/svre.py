"""SVRE: a stochastic inner loop over the members, with reduced variance."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, weighted_sum
from gauntlet.attacks.transfer.context import AttackContext, DrawView, GradientResult, Members
from gauntlet.attacks.transfer.ensemble_gradient import ordered
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng


@dataclass(frozen=True)
class SVRE(Knobs, key="attack.ensemble"):
    """Stochastic variance reduced ensemble (Xiong et al. 2022, arXiv 2111.10752), for two or more members.

    From the point of the outer step an inner loop takes steps of its own: each draws a member and corrects its gradient
    by the difference, at the outer point, between that member and the ensemble. The outer step follows the momentum
    that the inner loop gathered. Members see one view, the same throughout the loop.

    For K members and n inner steps a gradient costs K + n forwards and 2 K + n backwards: the gradients at the outer
    point are taken once, where the released code takes them anew at each inner step to the same effect.

    Args:
        inner_steps: n; 0: four for each member.
        decay: of the inner momentum, >= 0.
    """

    inner_steps: int = knob(0, least=0)
    decay: float = knob(1.0, least=0)

    def __call__(
        self, members: Members, draw_view: DrawView, context: AttackContext, z: Tensor, rng: Rng
    ) -> GradientResult:
        ranked = [member for member, _ in ordered(members)]
        shown = draw_view("")
        parts = [member.linearize(z, rng.stream(member.head.name), shown.view) for member in ranked]
        mean = torch.stack([logits for logits, _ in parts]).mean(0)
        direction = context.cotangent(mean) / len(parts)
        outer = LogScaledGradient(torch.stack([pull(direction) for _, pull in parts]).sum(0), context.log_scale(mean))
        own = [LogScaledGradient(pull(context.cotangent(logits)), context.log_scale(logits)) for logits, pull in parts]
        count = self.inner_steps or 4 * len(parts)
        # Which member comes next is drawn once for all samples: each could have its own order, at no gain.
        draw = replace(rng.stream("member"), ids=rng.ids.new_zeros(1))
        inner, momentum = z, torch.zeros_like(z)
        for number, k in enumerate(draw.integers((count,), len(parts))[0].tolist()):
            logits, gradient = ranked[k].gradient(inner, context.cotangent, rng.stream(number), shown.view)
            here = LogScaledGradient(gradient, context.log_scale(logits))
            momentum = self.decay * momentum + context.scaled(
                weighted_sum((1.0, here), (-1.0, own[k]), (1.0, outer)).direction
            )
            inner = context.stepped(inner, momentum)
        return GradientResult(mean, shown.plain, LogScaledGradient(momentum, torch.zeros_like(outer.log_scale)))
