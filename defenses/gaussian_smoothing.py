"""Randomized smoothing with Gaussian noise: the class that a network gives most noisy copies of the image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gauntlet.certification.noise import Gaussian, GridGaussian
from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.smoothing_heads import check_copies, smoothed
from gauntlet.knobs import knob
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True)
class GaussianSmoothing(Defense):
    """One prediction is that of the network on one noisy copy; `protocol=vote` deploys the majority of many.

    The protocol counts: with `protocol.draws` copies and `protocol.alpha` it is PREDICT of Cohen et al. 2019 (arXiv
    1902.02918), which abstains where the majority may be chance. The heads follow SmoothAdv (Salman et al. 2019, arXiv
    1906.04584): the loss of the mean probability over copies, not the mean of losses, and the bare network.

    Args:
        parts: "model", trained on noisy images.
        sigma: standard deviation of the noise, in pixels of [0, 1], added before any normalization.
        copies: numbers of copies that the heads average over; one head for each.
        exact: whether noisy images are rounded to whole steps, which makes samples, and with them certificates, exact
            in floating point; for images in whole steps.
        steps: of exact, for a unit of brightness, >= 1: 255 for images of bytes.

    Raises:
        UserError: sigma, steps or a number of copies is not positive.
    """

    card: ClassVar[Card] = Card(
        "The class that a network gives most copies of the image with Gaussian noise.",
        source="Cohen et al. 2019, arXiv 1902.02918",
        claim="a certified l2 radius for each image",
        certificate="certifier=smoothing, l2",
        randomized=True,
    )

    sigma: float = knob(0.25, above=0, hint="without noise nothing is certified")
    copies: tuple[int, ...] = (1, 8, 128)
    exact: bool = False
    steps: int = knob(255, least=1, hint="of a unit of brightness, 255 for bytes")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_copies(self.copies)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        noise = GridGaussian(self.sigma, self.steps) if self.exact else Gaussian(self.sigma)
        return smoothed(models["model"], noise, self.copies)
