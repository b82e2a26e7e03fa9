"""Regularization of abnormal adversarial examples, those whose step has lowered the loss."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.inner_attack import bounded, noisy_step
from gauntlet.training.objectives.objective import Objective


@dataclass(frozen=True, kw_only=True)
class AAER(Knobs, Objective, key="recipe.objective"):
    """Training on the examples of one step, without catastrophic overfitting (Lin, Yu and Liu, NeurIPS 2023, arXiv
    2404.08154).

    With z0 and z1 the logits at the random start and after the step, an example is abnormal where its cross-entropy has
    fallen, CE(z1) < CE(z0). The loss is CE(z1) + (share of abnormal examples) (ce_weight mean over them of CE(z0) -
    CE(z1) + logit_weight max(0, their mean ||z1 - z0||^2 - that of the others)), the second part only where there are
    both. z0, the share and the mean of the others are constants. The start is seen in training mode, as the
    example is, so that both have the statistics of their batch; no pass is added to those of a single step. Share and
    means are those of the batch, of which each of several processes knows its own part.

    Args:
        eps: budget of the linf ball: a number, or text such as "8/255".
        start: half width of the random start as a multiple of eps, >= 0: 1 in RS-AAER, 2 in N-AAER.
        step_size: as a multiple of eps, > 0: 1.25 and 1.
        projected: whether the step ends in the ball: true, and false in N-AAER, whose examples only the box limits.
        ce_weight: >= 0; the product of the paper's first and second factors.
        logit_weight: >= 0; the product of its first and third.
    """

    eps: str | float
    start: float = knob(1.0, least=0, hint="a multiple of eps")
    step_size: float = knob(1.25, above=0, hint="a multiple of eps")
    projected: bool = True
    ce_weight: float = knob(2.5, least=0)
    logit_weight: float = knob(1.5, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded("objective", "linf", self.eps)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return the examples and, behind their entries, the logits at their starts: float [B, C H W + K]."""
        threat = Threat("linf", self.eps)
        threat = threat if factors is None else threat.scaled(factors)
        z, logits = noisy_step(model, x, y, rng.stream("attack"), threat, self.start, self.step_size)
        if self.projected:
            z = threat.project(z, x)
        return torch.cat([z.flatten(1), logits.to(z.dtype)], 1)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        pixels = x[0].numel()
        after = model(z[:, :pixels].view_as(x))
        found = F.cross_entropy(after, y, reduction="none")
        return found + self.penalty(z[:, pixels:].to(after.dtype), after, y)

    def penalty(self, before: Tensor, after: Tensor, y: Tensor) -> Tensor:
        """Return the regularization of a batch, a number: zero where all or no examples are abnormal.

        before, after: logits [B, K] at the start and after the step; y: int64 [B].
        """
        before = before.detach()
        fall = F.cross_entropy(before, y, reduction="none") - F.cross_entropy(after, y, reduction="none")
        abnormal = fall.detach() > 0
        count = int(abnormal.sum())
        if count in (0, len(y)):
            return after.new_zeros(())
        moved = (after - before).square().sum(1)
        excess = (moved[abnormal].mean() - moved[~abnormal].mean().detach()).clamp_min(0)
        return count / len(y) * (self.ce_weight * fall[abnormal].mean() + self.logit_weight * excess)
