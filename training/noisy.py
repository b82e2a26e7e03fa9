"""Training on noisy images, for networks that will vote on noisy copies."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from harness.rng import Rng
from training.objective import Objective

COPIES = 4
"""Noisy copies with which a network in training is validated."""


@dataclass(frozen=True)
class Gaussian(Objective):
    """Cross-entropy on images with Gaussian noise (Cohen et al. 2019, arXiv 1902.02918).

    Args:
        sigma: standard deviation in pixels of [0, 1], > 0; the one that is deployed.

    Raises:
        UserError: sigma is not positive.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise UserError(f"recipe.objective.sigma={self.sigma} must be a positive number")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return x + self.sigma * rng.stream("noise").normal(tuple(x.shape[1:]), dtype=x.dtype)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return Copies(model, self.sigma)


class Copies(nn.Module):
    """The mean probabilities of a network over a few noisy copies, as logits: its smoothed form, for validation.

    The noise is the same in every call and for every image.
    """

    def __init__(self, network: nn.Module, sigma: float, copies: int = COPIES) -> None:
        super().__init__()
        self.network, self.sigma, self.copies = network, sigma, copies

    def forward(self, x: Tensor) -> Tensor:
        noise = Rng(0, torch.arange(self.copies, device=x.device), "validation").normal(
            tuple(x.shape[1:]), dtype=x.dtype
        )
        logs = [self.network(x + self.sigma * each).log_softmax(1) for each in noise]
        mean: Tensor = torch.stack(logs).logsumexp(0)
        return mean
