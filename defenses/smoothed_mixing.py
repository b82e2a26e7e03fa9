"""Mixtures whose robust network is smoothed, so that a certificate holds for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.certification.certifiable import Mixed
from gauntlet.certification.noise import Gaussian
from gauntlet.defenses.adaptive_smoothing import AdaptiveSmoothing, Composite
from gauntlet.defenses.base import Card
from gauntlet.defenses.mixing import Mixing, mixed
from gauntlet.defenses.smoothing_heads import check_copies, mean_heads
from gauntlet.knobs import knob
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain

Weights = Callable[[Tensor], tuple[Tensor, Tensor | float]]
"""Images -> logits of the accurate network, scaled, and the weight of the robust one."""


@dataclass(frozen=True)
class SmoothedMixing(Mixing):
    """(1 - alpha) softmax(s_g g(x)) + alpha h(x), where h is the mean of softmax(s_h f(x + noise)) over noisy copies.

    Bai et al., arXiv 2301.12554 and 2311.15165. With ever more copies h becomes what is certified.

    Args:
        parts: "accurate", any network, and "robust", trained on noisy images.
        alpha: weight of h, in [0.5, 1]; at 0.5 nothing can be certified.
        accurate_scale, robust_scale: inverse temperatures s_g, s_h > 0.
        sigma: standard deviation of the noise, in pixels of [0, 1].
        draws: noisy copies of a prediction.
        copies: numbers of copies that the heads average over; one head for each.

    Raises:
        UserError: a value outside its range, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A fixed mixture of an accurate network and the mean probabilities of a robust one over noisy copies.",
        source="Bai et al., arXiv 2301.12554, 2311.15165",
        claim="a certified l2 radius for each image",
        forwards=51.0,
        certificate="certifier=mixing, l2",
        randomized=True,
    )

    sigma: float = knob(0.25, above=0, hint="without noise nothing is certified")
    draws: int = 50
    copies: tuple[int, ...] = (1, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_copies((*self.copies, *([] if self.draws in self.copies else [self.draws])))

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        accurate = models["accurate"]

        def weights(x: Tensor) -> tuple[Tensor, Tensor | float]:
            return self.accurate_scale * accurate(x), self.alpha

        mechanism = Mixed(models["robust"], Gaussian(self.sigma), self.alpha, self.robust_scale)
        return _deployed(models, weights, mechanism, self.draws, self.copies)


@dataclass(frozen=True)
class SmoothedAdaptive(AdaptiveSmoothing):
    """`AdaptiveSmoothing` whose robust network is the mean of its probabilities over noisy copies.

    What the mixing network says depends on the image, and an attacker can move it: certificates hold for its least
    weight, alpha_low.

    Args: as of `AdaptiveSmoothing`, and
        sigma: standard deviation of the noise, in pixels of [0, 1].
        draws: noisy copies of a prediction.
        copies: numbers of copies that the heads average over; one head for each.
    """

    card: ClassVar[Card] = replace(
        SmoothedMixing.card,
        summary="A mixture with a smoothed robust network, whose weight a third network chooses for each image.",
        forwards=52.2,
        differs=AdaptiveSmoothing.card.differs,
    )

    sigma: float = knob(0.25, above=0, hint="without noise nothing is certified")
    draws: int = 50
    copies: tuple[int, ...] = (1, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_copies((*self.copies, *([] if self.draws in self.copies else [self.draws])))

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        left, right = ((names[0], names[1]) for names in self.taps)
        composite = Composite(models["accurate"], models["robust"], models["mixer"], (left, right)).eval()

        def weights(x: Tensor) -> tuple[Tensor, Tensor | float]:
            accurate, _, gamma = composite(x)
            share = torch.sigmoid(self.gamma_scale * gamma + self.gamma_bias)
            return self.accurate_scale * accurate, self.alpha_low + (self.alpha_high - self.alpha_low) * share

        mechanism = Mixed(models["robust"], Gaussian(self.sigma), self.alpha_low, self.robust_scale)
        return _deployed(models, weights, mechanism, self.draws, self.copies)


def _deployed(
    models: Mapping[str, nn.Module], weights: Weights, mechanism: Mixed, draws: int, copies: tuple[int, ...]
) -> Victim:
    robust, noise = models["robust"], mechanism.noise

    def view(x: Tensor, rng: Rng, number: int) -> Tensor:
        scores: Tensor = mechanism.scale * robust(noise(x, rng, number))
        return scores

    smoothed = {head.name: head.forward for head in mean_heads((*copies, draws), view)}

    def mixture(name: str, x: Tensor, rng: Rng) -> Tensor:
        accurate, weight = weights(x)
        return mixed(accurate, smoothed[name](x, rng), weight)

    heads = [Head(name, partial(mixture, name)) for name in smoothed]
    plainly = (Head("robust", plain(robust)), Head("accurate", plain(models["accurate"])))
    return Victim(
        heads[-1].forward,
        tuple(models.values()),
        (*heads[:-1], *plainly),
        randomized=True,
        draws=1,
        mechanism=mechanism,
    )
