"""Adversarial training for the worst distribution over the examples."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class DONETraining(Defense):
    """A network trained on PGD examples for the worst distribution over them; the recipe is `done`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples for the worst distribution over them, near the uniform one.",
        source="Sow, Lin, Wang and Liang, ICLR 2024",
        claim="white-box attacks within the norm ball of its training, above all on the worst classes",
        differs="the authors also differentiate through a log-barrier attack; here the weights are theirs, the "
        "examples those of PGD, taken as constants, and the constants are ours",
    )
