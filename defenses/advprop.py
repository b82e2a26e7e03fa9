"""Adversarial examples as a help to clean accuracy."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AdvProp(Defense):
    """A network that saw adversarial examples through batch norms of their own; deployed with the others, so that its
    weights are those of the plain architecture. The recipe is `advprop`.
    """

    card: ClassVar[Card] = Card(
        "A network trained on images and, through other batch norms, on adversarial examples; deployed without those.",
        source="Xie et al. 2020, arXiv 1911.09665",
        claim="none against adversaries: its authors claim accuracy on clean and on corrupted images",
        differs="the budget of the attack on digits is ours, chosen on validation images",
    )
