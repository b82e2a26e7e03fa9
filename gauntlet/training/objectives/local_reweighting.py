"""LRAT: each image and its adversarial variants share out one weight among themselves."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import Objective
from gauntlet.training.sample_weighting import vulnerability


@dataclass(frozen=True)
class LRAT(Knobs, Objective, key="recipe.objective"):
    """sum_j w_j CE(f(z_j), y) + max(0, mass - sum_j w_j) CE(f(x), y), z_j the variants (Gao et al., arXiv 2106.15776).

    A variant that fools the network takes weight, a harmless one leaves it to the image, and no sample takes any from
    another: what is safe under the attacks of the training may fall to another. There is no released code; the
    weights w_j = sigmoid(slope (PM_j + bias)) / number of variants, with PM_j = max_{k != y} p_k - p_y on the variant
    and without gradient, are ours, as are the defaults.

    Args:
        attack: how variants are found, apart from its loss.
        variants: the loss of the attack for each variant: ce, margin, kl or shift; all begin at one random point.
        mass: least weight of an image and its variants together, >= 0.
        slope: >= 0.
        bias: added to the margin.

    Raises:
        UserError: a value outside its range, a loss twice, or one that the attack does not know.
    """

    attack: InnerPGD
    variants: list[str] = field(default_factory=lambda: ["ce", "margin"])
    mass: float = knob(1.0, least=0)
    slope: float = knob(10.0, least=0)
    bias: float = knob(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.variants)) < len(self.variants):
            raise UserError(f"recipe.objective.variants={self.variants} names a loss twice; each variant has its own")
        self._attacks()

    def _attacks(self) -> list[InnerPGD]:
        return [replace(self.attack, loss=name) for name in self.variants]

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        """Return the variants of each image, [B, m, C, H, W]."""
        found = [attack(model, x, y, rng.stream("attack"), factors) for attack in self._attacks()]
        return torch.stack(found, 1) if found else x.new_empty(len(x), 0, *x.shape[1:])

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        count = z.shape[1]
        outputs = [model(variant) for variant in z.unbind(1)]
        found = [F.cross_entropy(logits, y, reduction="none") for logits in outputs]
        weights = [vulnerability(logits, y, self.slope, self.bias) / count for logits in outputs]
        clean = F.cross_entropy(model(x), y, reduction="none")
        return shared_out(clean, _stacked(found, clean), _stacked(weights, clean), self.mass)


def shared_out(clean: Tensor, attacked: Tensor, weights: Tensor, mass: float) -> Tensor:
    """Return the weighted losses of images and their variants [B]; the image takes what is left of the mass.

    clean: losses of the images [B]; attacked, weights: of the variants, [B, m].
    """
    return (weights * attacked).sum(1) + (mass - weights.sum(1)).clamp_min(0) * clean


def _stacked(columns: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(columns, 1) if columns else like.new_zeros(len(like), 0)
