"""Adversarial examples for training in large batches."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class ConAdv(Defense):
    """As `AdvProp`, with examples against the weights of the step before; the recipe is `conadv`."""

    card: ClassVar[Card] = Card(
        "A network trained in large batches as in AdvProp, on adversarial examples for its weights of one step ago.",
        source="Liu et al. 2021, arXiv 2106.00221",
        claim="none against adversaries: its authors claim clean accuracy at large batch sizes",
        differs="SGD in place of LAMB, and the attack runs before the step, not beside it",
    )
