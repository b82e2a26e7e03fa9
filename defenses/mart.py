"""MART."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class MART(Defense):
    """A network trained on PGD examples, with more weight on images that are wrong anyway; the recipe is `mart`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples, with more weight on images that it gets wrong without an attack.",
        source="Wang et al. 2020, ICLR, Improving adversarial robustness requires revisiting misclassified examples",
        claim="white-box attacks within the norm ball of its training",
    )
