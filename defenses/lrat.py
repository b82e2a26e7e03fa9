"""Adversarial training with weights shared out between each image and its variants."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class LRATTraining(Defense):
    """A network trained on images and their variants under several attacks, weighted within each image; the recipe is
    `lrat`."""

    card: ClassVar[Card] = Card(
        "A network trained on images and on their variants under several attacks; the weight of an image goes to the "
        "variants that fool the network.",
        source="Gao et al. 2021, arXiv 2106.15776",
        claim="attacks within the norm ball of its training, those it was not trained on among them",
        differs="the authors' weights were not at hand: here each variant takes a sigmoid of its probability margin",
    )
