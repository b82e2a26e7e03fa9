"""BARRE: a randomized ensemble whose members are trained one after the other, each against all before it."""

from dataclasses import dataclass, field
from typing import ClassVar

from gauntlet.defenses.base import Card
from gauntlet.defenses.randomized_ensemble import RandomizedEnsemble


@dataclass(frozen=True)
class BARRE(RandomizedEnsemble):
    """A randomized ensemble by boosting (Dbouk and Shanbhag 2023, arXiv 2302.01375): see
    `gauntlet.training.objectives.boosting`.

    Args:
        parts: "first" to "fifth"; each uses those before it.
        members: the first so many of them, two or more.
        probabilities: as of a randomized ensemble.
        draws: as of a randomized ensemble.

    Raises:
        UserError: as of a randomized ensemble.
    """

    card: ClassVar[Card] = Card(
        "Each query is answered by one of several networks, trained one after the other against the ensemble so far.",
        source="Dbouk and Shanbhag 2023, arXiv 2302.01375",
        claim="white-box linf attacks, ARC among them",
        randomized=True,
        differs="members are trained without MCE and with equal probabilities, and an epoch is chosen on validation "
        "images; Table 1 of the authors has MCE of weight 1 in the loss and in the attack (recipe=barre_table1), moves "
        "the probabilities within training, and chooses by ARC on the test images",
    )

    members: list[str] = field(default_factory=lambda: ["first", "second", "third"])
