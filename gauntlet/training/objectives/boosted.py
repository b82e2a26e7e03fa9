"""The second member of a randomised ensemble as it was first proposed: trained on what fools the first."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError
from harness.rng import Rng
from training.inner import InnerPGD
from training.objective import Objective


@dataclass(frozen=True)
class Boosted(Objective):
    """Cross-entropy on examples that were crafted against another network (BAT; Pinot et al. 2020, arXiv 2002.11565).

    The network that learns is not attacked: it answers where the first one is fooled, and is worth nothing by itself.

    Args:
        attack: how examples are found, against the first network.
        first: that network, frozen; it comes from the part of this name.
    """

    attack: InnerPGD
    first: nn.Module | None = None

    @property
    def companions(self) -> tuple[nn.Module, ...]:
        """The first network, whose passes are part of the price."""
        return () if self.first is None else (self.first,)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng, factors: Tensor | None = None) -> Tensor:
        if self.first is None:
            raise UserError("recipe=bat trains the second member of defense=bat; its part needs uses: [first]")
        return self.attack(self.first, x, y, rng.stream("attack"), factors)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor, rng: Rng) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")
