"""A network that was pruned at flat minima."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class AdaSAP(Defense):
    """A network with half of its filters at zero, trained flat by importance; the recipe is `adasap`."""

    card: ClassVar[Card] = Card(
        "A network whose unimportant filters were flattened and pruned in training.",
        source="Bair et al. 2024, arXiv 2306.14306",
        claim="none against adversaries: its authors claim accuracy under corruptions of pruned networks",
        differs="filters are chosen by their norms within each layer and keep their place as zeros; the radius after "
        "pruning is ours",
    )
