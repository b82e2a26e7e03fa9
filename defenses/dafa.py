"""Adversarial training with weights and budgets of classes."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class DAFATraining(Defense):
    """A network trained with weights and budgets of classes, by how they are taken for each other; the recipe is
    `dafa`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples, with more weight and budget for classes that are taken for easier ones.",
        source="Lee et al. 2024, arXiv 2401.12532",
        claim="white-box attacks within the norm ball of its training, above all on the worst class",
        differs="the authors begin with TRADES (recipe=dafa_cifar); recipe=dafa begins with adversarial training on "
        "PGD examples. Their code cuts enlarged budgets of its PGD back, which the paper does not",
    )
