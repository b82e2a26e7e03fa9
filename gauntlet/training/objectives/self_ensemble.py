"""Training of a multi-resolution self-ensemble: every predictor learns from the same random stacks."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.multi_resolution import ResolutionStack
from gauntlet.training.objectives.objective import Objective

DRAWS = 4
"""Stacks of each image with which a network in training is validated."""


@dataclass(frozen=True)
class SelfEnsemble(Objective):
    """Sum over the predictors of the cross-entropy on one random stack (arXiv 2408.05446).

    Args:
        stack: how images are stacked, as deployed.
    """

    stack: ResolutionStack = field(default_factory=ResolutionStack)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return summed(model(self.stack(z, rng.stream("stack"))), y)

    def classifier(self, model: nn.Module) -> nn.Module:
        return Stacked(model, self.stack)


class Stacked(nn.Module):
    """The mean logits over a few stacks, and over all predictors of a network with several; the same draws for every
    image: for validation."""

    def __init__(self, network: nn.Module, stack: ResolutionStack) -> None:
        super().__init__()
        self.network, self.stack = network, stack

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        draws = [self.network(self.stack(x, Rng(0, ids, f"validation/{n}"))) for n in range(DRAWS)]
        mean = torch.stack(draws).mean(0)
        return mean.mean(1) if mean.dim() == 3 else mean


def summed(logits: Tensor, y: Tensor) -> Tensor:
    """Return the sum over the predictors of the cross-entropy, [B]. logits: [B, M, K]; y: int64 [B]."""
    each = F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(logits.shape[1]), reduction="none")
    return each.reshape(len(y), -1).sum(1)
