"""How much each sample counts, and how far it may be attacked."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gauntlet.knobs import Knobs, knob


class Weighting(Protocol):
    """Weights of the samples of a batch; progress: share of the training that is done, in [0, 1)."""

    def factors(self, y: Tensor, progress: float) -> Tensor | None:
        """Return the multiples of the budget of the attack [B], or None: all ones. y: int64 [B]."""

    def weights(self, losses: Tensor, y: Tensor, progress: float) -> Tensor:
        """Return the multiples of the losses [B], without gradient; they are taken anew under perturbed weights.

        losses: detached, [B], of the whole batch, also where several processes share it.
        """


@dataclass(frozen=True)
class SoftmaxWeighting(Knobs, key="recipe.weighting"):
    """exp(loss / temperature), scaled to a mean of one: the worst case within a divergence from equal weights.

    The closed form of max over w of sum w_i l_i - temperature KL(w || uniform) (distributionally robust optimization).

    Args:
        temperature: > 0; the larger, the more equal.
        start: share of the training before which all weights are one, in [0, 1).

    Raises:
        UserError: a value outside its range.
    """

    temperature: float = knob(5.0, above=0)
    start: float = knob(0.0, least=0, below=1)

    def factors(self, y: Tensor, progress: float) -> None:
        return None

    def weights(self, losses: Tensor, y: Tensor, progress: float) -> Tensor:
        if progress < self.start:
            return torch.ones_like(losses)
        return (losses / self.temperature).softmax(0) * len(losses)
