"""Dual randomized smoothing: two networks vote, each on noisy copies of its own half of the pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.certification.certifiable import Dual
from gauntlet.certification.noise import Gaussian
from gauntlet.defenses.base import Card, Defense
from gauntlet.defenses.smoothing_heads import check_copies, mean_heads
from gauntlet.knobs import knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim


@dataclass(frozen=True)
class DualSmoothing(Defense):
    """One prediction is that of one of the two networks, chosen by chance, on a noisy copy; `protocol=vote` deploys the
    majority of many, which tends to the class with the largest sum of both shares.

    Xia et al. 2024, "Mitigating the curse of dimensionality for certified robustness via dual randomized smoothing",
    arXiv 2404.09586. Not the later method of the same name by Sun, Mao and
    Vechev, which chooses the noise of each image.

    Args:
        parts: "left" and "right", each a `gauntlet.models.half_image.Half` trained on noisy images.
        sigma: standard deviation of the noise, in pixels of [0, 1].
        copies: numbers of copies that the heads average over; one head for each.

    Raises:
        UserError: sigma or a number of copies is not positive.
    """

    card: ClassVar[Card] = Card(
        "Two networks vote on noisy copies, each on every second pixel; another method than that of arXiv 2512.01782.",
        source="Xia et al. 2024, arXiv 2404.09586",
        claim="a certified l2 radius for each image",
        forwards=2.0,
        certificate="certifier=dual_smoothing, l2",
        randomized=True,
    )
    names: ClassVar[tuple[str, ...]] = ("left", "right")

    sigma: float = knob(0.18, above=0, hint="without noise nothing is certified")
    copies: tuple[int, ...] = (1, 8, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_copies(self.copies)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        left, right, noise = models["left"], models["right"], Gaussian(self.sigma)

        def mean(x: Tensor) -> Tensor:
            return torch.logaddexp(left(x).log_softmax(1), right(x).log_softmax(1)) - math.log(2)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            noisy = noise(x, rng, 0)
            first = rng.stream("side").uniform((1,)) < 0.5
            return torch.where(first, left(noisy), right(noisy))

        heads = (
            *mean_heads(self.copies, lambda x, rng, number: mean(noise(x, rng, number))),
            Head("base", lambda x, rng: mean(x)),
        )
        return Victim(predict, (left, right), heads, randomized=True, mechanism=Dual(left, right, noise))
