"""Adversarial training that counts samples by their probability margins."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class MAILTraining(Defense):
    """A network trained on PGD examples, those with small margins counted most; the recipe is `mail`, or
    `mail_trades`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples, each counted by the margin of its label's probability.",
        source="Wang et al. 2021, arXiv 2106.07904",
        claim="white-box attacks within the norm ball of its training; judge it by attacks on the margin, too",
    )
