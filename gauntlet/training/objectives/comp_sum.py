"""Smooth adversarial comp-sum losses: a surrogate on the image, and how far its margins move within the ball."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import Objective

SMALLEST = 1e-12
"""Added under the root, which has no slope at zero."""


@dataclass(frozen=True)
class CompSumObjective(Knobs, Objective, key="recipe.objective"):
    """l_tau(f(x) / rho, y) + nu ||D_y(z) - D_y(x)||, D_y the margins f_y - f_k (Mao et al. 2023, arXiv 2304.07288).

    l_tau = ((1 + u)^(1 - tau) - 1) / (1 - tau) with u = sum over k != y of exp(f_k - f_y), and log(1 + u) for tau=1,
    which is the cross-entropy; tau=0 is the sum-exponential loss, tau=2 is 1 - p_y. The gradient goes through both
    margins. The norm of the paper is taken as Euclidean. rho and nu are ours: the paper's were not at hand.

    Args:
        attack: how z is found; its loss is shift.
        tau: of the comp-sum family, >= 0.
        rho: what logits are divided by in the surrogate, > 0.
        nu: weight of the change of the margins, >= 0; 0 trains on images alone, without an attack.

    Raises:
        UserError: a value outside its range, or an attack on another loss.
    """

    attack: InnerPGD
    tau: float = knob(1.0, least=0)
    rho: float = knob(1.0, above=0)
    nu: float = knob(0.3, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack.loss != "shift":
            raise UserError(f"recipe.objective.attack.loss={self.attack.loss}: this objective needs loss=shift")

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors) if self.nu else x

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        clean = model(x)
        losses = comp_sum(clean / self.rho, y, self.tau)
        return losses + self.nu * margin_shift(clean, model(z), y) if self.nu else losses


def comp_sum(logits: Tensor, y: Tensor, tau: float) -> Tensor:
    """Return l_tau per sample [B]; logits: [B, K], y: int64 [B]. log(1 + u) = -log p_y, so no exponent is large."""
    log_sum = -logits.log_softmax(1).gather(1, y[:, None]).squeeze(1)
    return log_sum if tau == 1 else torch.expm1((1 - tau) * log_sum) / (1 - tau)


def margin_shift(clean: Tensor, attacked: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean length of the change of the margins f_y - f_k, k != y, per sample [B]."""
    change = attacked - clean
    gaps = change.gather(1, y[:, None]) - change
    return (gaps.square().sum(1) + SMALLEST).sqrt()
