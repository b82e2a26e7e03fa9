"""Adversarial weight perturbation."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AWP(Defense):
    """A network trained adversarially in the images and in the weights; the recipe is `pgd_at_awp`, or `trades_awp`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples at weights that an adversary has moved.",
        source="Wu et al. 2020, arXiv 2004.05884",
        claim="white-box attacks within the norm ball of its training",
    )
