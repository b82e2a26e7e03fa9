"""Fast adversarial training: one step per batch."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class FastAT(Defense):
    """A network trained on the examples of a single step; the recipe is `fgsm_rs`, or `n_fgsm`."""

    card: ClassVar[Card] = Card(
        "A network trained on the examples of one long step from a random start.",
        source="Wong et al. 2020, arXiv 2001.03994",
        claim="white-box attacks within the norm ball of its training, where catastrophic overfitting did not set in",
    )
