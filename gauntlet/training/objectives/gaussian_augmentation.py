"""Training on noisy images, for networks that will vote on noisy copies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.objective import InnerAttack, Objective

COPIES = 4
"""Noisy copies with which a network in training is validated."""


@dataclass(frozen=True)
class GaussianAugmentation(Knobs, Objective, key="recipe.objective"):
    """Cross-entropy on images with Gaussian noise (Cohen et al. 2019, arXiv 1902.02918).

    Args:
        sigma: standard deviation in pixels of [0, 1], > 0; the one that is deployed.

    Raises:
        UserError: sigma is not positive.
    """

    sigma: float = knob(0.25, above=0)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return x + self.sigma * rng.stream("noise").normal(tuple(x.shape[1:]), dtype=x.dtype)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return Copies(model, self.sigma)


@dataclass(frozen=True)
class Noisy(Objective):
    """Cross-entropy on images with any noise.

    Args:
        noise: such as `gauntlet.certification.noise.Uniform`.
    """

    noise: Callable[[Tensor, Rng, int], Tensor]

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.noise(x, rng.stream("noise"), 0)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")


@dataclass(frozen=True)
class Consistency(GaussianAugmentation):
    """Cross-entropy on noisy copies that must agree (Jeong and Shin 2020, arXiv 2006.04062).

    The mean over copies of CE + agreement KL(mean || copy), and sharpness times the entropy of the mean probabilities.

    Args:
        sigma: as of `GaussianAugmentation`.
        copies: per image, at least 2.
        agreement: weight of the divergence, >= 0; the paper has 20 for sigma 0.25 and 10 above.
        sharpness: weight of the entropy, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    copies: int = knob(2, least=2, hint="one has nothing to agree with")
    agreement: float = knob(20.0, least=0)
    sharpness: float = knob(0.5, least=0)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return x

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        noisy = [z + self.sigma * noise for noise in draws(rng, z, self.copies)]
        logits = model(torch.cat(noisy)).reshape(self.copies, len(x), -1)
        logs = logits.log_softmax(2)
        mean = logs.exp().mean(0)
        log = mean.clamp_min(1e-20).log()
        ce = F.nll_loss(logs.flatten(0, 1), y.repeat(self.copies), reduction="none").reshape(self.copies, -1)
        apart = (mean * (log - logs)).sum(2)
        entropy = -(mean * log).sum(1)
        loss: Tensor = (ce + self.agreement * apart).mean(0) + self.sharpness * entropy
        return loss


@dataclass(frozen=True)
class SmoothAdv(GaussianAugmentation):
    """Cross-entropy on noisy copies of examples that fool their mean (Salman et al. 2019, arXiv 1906.04584).

    The attack sees the mean probabilities over the same copies that are then trained on.

    Args:
        sigma: as of `GaussianAugmentation`.
        attack: on the smoothed network, in l2.
        copies: per image, at least 1.

    Raises:
        UserError: a value outside its range.
    """

    attack: InnerAttack | None = None
    copies: int = knob(2, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack is None:
            raise UserError("recipe.objective needs an attack; choose recipe=smoothadv")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        assert self.attack is not None
        view = Copies(model, self.sigma, noise=draws(rng, x, self.copies))
        return self.attack(view, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        noisy = [z + self.sigma * noise for noise in draws(rng, z, self.copies)]
        losses = F.cross_entropy(model(torch.cat(noisy)), y.repeat(self.copies), reduction="none")
        return losses.reshape(self.copies, -1).mean(0)


def draws(rng: Rng, x: Tensor, copies: int) -> Tensor:
    """Standard normal noise, [copies, *x.shape]."""
    stream = rng.stream("noise")
    return torch.stack([stream.normal(tuple(x.shape[1:]), number, dtype=x.dtype) for number in range(copies)])


class Copies(nn.Module):
    """The mean probabilities of a network over a few noisy copies, as logits: its smoothed form.

    Args:
        noise: [copies, B, C, H, W] for a certain batch; None: the same few for every image, for validation.
    """

    def __init__(self, network: nn.Module, sigma: float, copies: int = COPIES, noise: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.sigma, self.copies, self.noise = network, sigma, copies, noise

    def forward(self, x: Tensor) -> Tensor:
        noise = self.noise
        if noise is None:
            ids = torch.arange(self.copies, device=x.device)
            noise = Rng(0, ids, "validation").normal(tuple(x.shape[1:]), dtype=x.dtype)
        logs = [self.network(x + self.sigma * each).log_softmax(1) for each in noise]
        mean: Tensor = torch.stack(logs).logsumexp(0)
        return mean
