"""What training minimises, per sample: the loop reduces once, at the end, so that weights fit every objective."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from harness.rng import Rng
from training.inner import InnerPGD


class Objective(Protocol):
    """A training objective."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Loss of each sample [B], with gradient to the weights; never reduced.

        x: float [B, C, H, W] in [0, 1]; y: int64 [B]; rng: keyed by sample id and epoch, the only source of randomness.
        """

    def classifier(self, model: nn.Module) -> nn.Module:
        """The map from images to logits that is deployed, for validation; often the model itself."""


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the images as they are."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return model


@dataclass(frozen=True)
class PGDAT:
    """Cross-entropy on adversarial examples only (Madry et al. 2018, arXiv 1706.06083)."""

    attack: InnerPGD

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        z = self.attack(model, x, y, rng.stream("attack"))
        return F.cross_entropy(model(z), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return model


@dataclass(frozen=True)
class TRADES:
    """CE(f(x), y) + beta KL(p(x) || p(z)), z by an attack on the divergence (Zhang et al. 2019, arXiv 1901.08573).

    The gradient goes through both arguments of the divergence.

    Args:
        attack: how z is found; its loss is kl in the paper.
        beta: weight of the divergence, >= 0; 0 is standard training, without an attack.
    """

    attack: InnerPGD
    beta: float = 6.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise UserError(f"objective.beta={self.beta} must not be negative")

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        if self.beta == 0:
            return F.cross_entropy(model(x), y, reduction="none")
        z = self.attack(model, x, y, rng.stream("attack"))
        clean = model(x)
        return F.cross_entropy(clean, y, reduction="none") + self.beta * divergence(clean, model(z))

    def classifier(self, model: nn.Module) -> nn.Module:
        return model


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax p || softmax q) of logits [B, K], per sample [B]; value and gradients are finite for any gap."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
