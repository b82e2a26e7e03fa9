"""Low-rank networks with bounded condition numbers."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class CondLR(Defense):
    """A network of low-rank factors with bounded condition numbers; the recipe is `condlr`, the model `low_rank`."""

    card: ClassVar[Card] = Card(
        "A network whose layers are orthonormal factors around a core of bounded condition number.",
        source="Savostianova et al. 2023, arXiv 2306.01485",
        claim="less harm by small perturbations (one step of up to 0.006 in linf) than other low-rank networks; "
        "there is no adversarial training in it",
        differs="gradients of the factors are scaled as in the projection of the dense gradient, where the released "
        "code has a factor of its own; the schedule on digits is ours",
    )
