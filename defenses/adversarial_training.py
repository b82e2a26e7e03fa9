"""Adversarial training with PGD."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AdversarialTraining(Defense):
    """A network trained on the PGD examples of each batch; the recipe is `pgd_at`."""

    card: ClassVar[Card] = Card(
        "A network trained on the PGD examples of each batch.",
        source="Madry et al. 2018, arXiv 1706.06083",
        claim="white-box attacks within the norm ball of its training",
    )
