"""Randomized smoothing with other noises: certificates in other norms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from gauntlet.certification.noise import Noise, Uniform
from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.smoothing_heads import check_copies, smoothed
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True)
class NoiseSmoothing(Defense):
    """`GaussianSmoothing` with another noise: uniform or Laplace for l1, ablation for l0.

    Args:
        parts: "model", trained on noisy images.
        noise: how copies are made.
        copies: numbers of copies that the heads average over; one head for each.

    Raises:
        UserError: a number of copies is not positive.
    """

    card: ClassVar[Card] = Card(
        "The class that a network gives most noisy copies of the image.",
        source="Yang et al. 2020, arXiv 2002.08118; Levine and Feizi 2020, arXiv 1911.09272",
        claim="a certified radius for each image, in the norm of the noise",
        certificate="certifier=smoothing",
        randomized=True,
    )

    noise: Noise = field(default_factory=Uniform)
    copies: tuple[int, ...] = (1, 8, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_copies(self.copies)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        return smoothed(models["model"], self.noise, self.copies)
