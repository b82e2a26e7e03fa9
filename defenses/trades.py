"""TRADES."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class TRADES(Defense):
    """A network trained for accuracy plus stability of its output within the ball; the recipe is `trades`."""

    card: ClassVar[Card] = Card(
        "A network trained on clean cross-entropy plus the divergence between clean and attacked outputs.",
        source="Zhang et al. 2019, arXiv 1901.08573",
        claim="white-box attacks within the norm ball of its training",
    )
