"""Adversarial training that counts samples by the attack steps they withstand."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class GAIRATTraining(Defense):
    """A network trained on PGD examples, those that fall at once counted most; the recipe is `gairat`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples, each counted by how few steps of the attack it withstood.",
        source="Zhang et al. 2021, arXiv 2010.01736",
        claim="white-box attacks within the norm ball of its training; judge it by attacks on the margin, which take "
        "back what it gains under PGD",
    )
