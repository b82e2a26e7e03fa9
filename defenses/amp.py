"""Adversarial model perturbation: a generaliser, and no defense by itself."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AMP(Defense):
    """A network trained on clean images at weights that an adversary has moved; the recipe is `amp`, or `amp_at`."""

    card: ClassVar[Card] = Card(
        "A network trained on clean images at weights that an adversary has moved: made to generalize, not to resist.",
        source="Zheng et al. 2021, arXiv 2010.04925",
        claim="none: its authors claim accuracy on clean images",
    )
