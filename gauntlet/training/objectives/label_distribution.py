"""Label-distributionally robust losses on adversarial examples: the worst distribution over the labels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.objective import InnerAttack, Objective


@dataclass(frozen=True)
class LDRObjective(Knobs, Objective, key="recipe.objective"):
    """LDR-KL on examples: max over p of sum p_k (f_k - f_y + c 1[k != y]) - t KL(p || uniform) (arXiv 2112.14869).

    Closed form: t log(mean over k of exp((f_k - f_y + c 1[k != y]) / t)). With t=1 and c=0 it is the cross-entropy less
    log K; towards t=0 it is the largest margin of a support-vector machine. The paper has clean images and noisy
    labels; on adversarial examples it is ours, as are the defaults.

    Args:
        attack: how examples are found.
        temperature: t, > 0.
        margin: c, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    attack: InnerAttack
    temperature: float = knob(1.0, above=0)
    margin: float = knob(0.1, least=0)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return ldr_kl(model(z), y, self.temperature, self.margin)


def ldr_kl(logits: Tensor, y: Tensor, temperature: float, margin: float) -> Tensor:
    """Return the loss of each sample [B]; logits: [B, K], y: int64 [B]."""
    label = y[:, None]
    gaps = logits - logits.gather(1, label) + margin * torch.ones_like(logits).scatter(1, label, 0.0)
    return temperature * ((gaps / temperature).logsumexp(1) - math.log(logits.shape[1]))
