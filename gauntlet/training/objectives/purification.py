"""Training a purifier in front of a frozen classifier, on attacked images that are partly hidden and noisy."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.objective import InnerAttack, Objective


@dataclass(frozen=True)
class RandomTransform(Knobs, key="transform"):
    """Gaussian noise, clipped to [0, 1], then blocks of pixels set to 0 by chance; draws of its own for each image.

    The transforms RT1 (no noise) and RT2 of AToP (Lin et al. 2024, arXiv 2401.16352), which has one mask a batch.

    Args:
        sigma: standard deviation of the noise in pixels of [0, 1], >= 0.
        missing: probability of each block to be hidden, in [0, 1).
        block: height and width of a block in pixels.

    Raises:
        UserError: a value out of range.
    """

    sigma: float = knob(0.1, least=0)
    missing: float = knob(0.0, least=0, below=1)
    block: int = knob(2, least=1)

    @property
    def random(self) -> bool:
        """Return whether it draws at all."""
        return self.sigma > 0 or self.missing > 0

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Pixels [B, C, H, W] to the same form."""
        if self.sigma:
            x = (x + self.sigma * rng.stream("noise").normal(tuple(x.shape[1:]), dtype=x.dtype)).clamp(0, 1)
        return x * self.kept(x, rng) if self.missing else x

    def kept(self, x: Tensor, rng: Rng) -> Tensor:
        """Return which pixels stay, 0 or 1 like x, [B, 1, H, W]."""
        rows, columns = (-(-side // self.block) for side in x.shape[2:])
        drawn = rng.stream("mask").uniform((1, rows, columns), dtype=x.dtype) >= self.missing
        pixels = drawn.to(x.dtype).repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        return pixels[:, :, : x.shape[2], : x.shape[3]]


@dataclass(frozen=True)
class Purifying(Knobs, Objective, key="recipe.objective"):
    """Mean |g(t(z)) - x| + balance CE(f(g(t(z))), y): g learns, the classifier f stays; z fools f by itself.

    AToP (Lin et al. 2024, arXiv 2401.16352) in small: without its generative adversarial loss.

    Args:
        model: the frozen f, passed in by the part that trains.
        attack: on f alone; null: clean images.
        transform: t, as deployed.
        balance: weight of the cross-entropy, >= 0; 0: a plain denoiser.

    Raises:
        UserError: no classifier, or a purifier that gives images of another size.
    """

    model: nn.Module
    attack: InnerAttack | None = None
    transform: RandomTransform = field(default_factory=RandomTransform)
    balance: float = knob(0.1, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            raise UserError("this trains a purifier in front of a network; run.py defense=purified trains both")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return x if self.attack is None else self.attack(self.model, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        clean = purified(model, self.transform(z, rng.stream("transform")))
        far = (clean - x).abs().flatten(1).mean(1)
        if not self.balance:
            return far
        self.model.requires_grad_(False)
        return far + self.balance * F.cross_entropy(self.model(clean), y, reduction="none")

    def classifier(self, model: nn.Module) -> nn.Module:
        return Pipeline(self.model, model, self.transform)


class Pipeline(nn.Module):
    """The classifier behind the purifier, with a draw of the transform for each place in the batch: for validation."""

    def __init__(self, network: nn.Module, purifier: nn.Module, transform: RandomTransform) -> None:
        super().__init__()
        self.network, self.purifier, self.transform = network, purifier, transform

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to logits [B, K]."""
        rng = Rng(0, torch.arange(len(x), device=x.device), "validation")
        logits: Tensor = self.network(purified(self.purifier, self.transform(x, rng)))
        return logits


def purified(purifier: nn.Module, x: Tensor) -> Tensor:
    """Return the purified images like x [B, C, H, W]. Raises UserError where they have another form."""
    found = purifier(x)
    if not isinstance(found, Tensor) or found.shape != x.shape:
        form = list(found.shape[1:]) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"the purifier gives {form} for images {list(x.shape[1:])}; give one of the size of the images, or let it "
            "resize inside"
        )
    return found
