"""Training with the smooth adversarial comp-sum loss."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class CompSum(Defense):
    """A network trained for a comp-sum loss plus the change of its margins in the ball; the recipe is `comp_sum`."""

    card: ClassVar[Card] = Card(
        "A network trained for cross-entropy on images plus how far its margins move within the ball.",
        source="Mao et al. 2023, arXiv 2304.07288",
        claim="white-box attacks within the norm ball of its training",
        differs="rho is 1 and nu 0.3, which are ours; network, augmentation and averaging of the authors are left out",
    )
