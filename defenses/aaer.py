"""Training on single-step examples with regularized abnormal examples."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AAERTraining(Defense):
    """A network trained on examples of one step, abnormal ones regularized; the recipe is `rs_aaer`, or `n_aaer`."""

    card: ClassVar[Card] = Card(
        "A network trained on the examples of one step, and against examples whose loss that step has lowered.",
        source="Lin et al. 2023, arXiv 2404.08154",
        claim="white-box attacks within the norm ball of its training, without catastrophic overfitting",
    )
