"""Adversarial training with a label-distributionally robust loss."""

from dataclasses import dataclass
from typing import ClassVar

from gauntlet.defenses.base import Card, Defense


@dataclass(frozen=True)
class LDR(Defense):
    """A network trained on PGD examples for the worst distribution over the labels; the recipe is `ldr`."""

    card: ClassVar[Card] = Card(
        "A network trained on PGD examples for the worst distribution over the labels near the uniform one.",
        source="Zhu et al. 2023, arXiv 2112.14869",
        claim="none against adversaries: its authors claim robustness to wrong labels",
        differs="the authors train on clean images, at their best with a temperature for each sample (ALDR-KL); this "
        "is LDR-KL with one temperature, on PGD examples, with constants of ours",
    )
