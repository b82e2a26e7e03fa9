"""MART: training that looks harder at the images that are wrong anyway."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.attacks.losses import runner_up
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.objective import InnerAttack, Objective, divergence


@dataclass(frozen=True)
class MARTObjective(Knobs, Objective, key="recipe.objective"):
    """BCE(q, y) + beta KL(p || q) (1 - p_y), p and q the probabilities at x and at z (Wang et al., ICLR 2020).

    BCE(q, y) = -log q_y - log(1.0001 - max_{k != y} q_k). No factor is detached.

    Args:
        attack: how z is found; its loss is ce.
        beta: weight of the divergence, >= 0.

    Raises:
        UserError: beta is negative.
    """

    attack: InnerAttack
    beta: float = knob(5.0, least=0)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        clean, attacked = model(x), model(z)
        rival = runner_up(attacked.detach(), y)
        other = attacked.softmax(1).gather(1, rival[:, None]).squeeze(1)
        boosted = F.cross_entropy(attacked, y, reduction="none") - torch.log(1.0001 - other)
        wrong = 1 - clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        losses: Tensor = boosted + self.beta * divergence(clean, attacked) * wrong
        return losses
