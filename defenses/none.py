"""No defense: a network trained on clean images."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class Undefended(Defense):
    """The network as it is."""

    card: ClassVar[Card] = Card("A network trained on clean images, or the one that you bring.")
