"""MixedNUTS: a mixture whose robust network is made sure where it is right and unsure where it is wrong, by a map."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Card, Defense
from defenses.mixing import check_scales, mixed
from defenses.nuts import mapped
from defenses.origin import Origin
from harness.errors import UserError
from harness.rng import Rng
from harness.victim import Head, Victim, plain


@dataclass(frozen=True)
class MixedNUTS(Defense):
    """(1 - alpha) onehot(g(x)) + alpha softmax(M(h(x))) of an accurate network g and a robust network h.

    From Bai et al., "MixedNUTS: training-free accuracy-robustness balance via nonlinearly mixed classifiers", arXiv
    2402.02263. M is `defenses.nuts.mapped`. The choice of g has no gradient and M is flat where h is sure, so an attack
    on the deployed forward sees little; the surrogates are the smooth path of its authors, (1 - a) softmax(g) + 0.9 a
    softmax(h) + 0.1 a softmax(M(h)), and each network by itself. The parameters come from
    `python -m defenses.calibrate_nuts`, never from the images that are evaluated.

    Args:
        parts: "accurate" and "robust": any two networks.
        s, c, p: of the map; s > 0, p >= 1.
        alpha: weight of the robust network in [0.5, 1]; (1 - alpha) / alpha is the margin that g cannot overturn.
        blend: the weight a of the smooth path, in [0.5, 1].
        calibration: which images the parameters were fitted to.

    Raises:
        UserError: a value outside its range, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A mixture of the choice of an accurate network and the mapped probabilities of a robust one.",
        source="Bai et al. 2024, arXiv 2402.02263",
        claim="that of its robust network, where its mapped margin is large enough",
        forwards=2.0,
    )

    names: ClassVar[tuple[str, ...]] = ("accurate", "robust")

    s: float = 5.0
    c: float = -1.1
    p: float = 4.0
    alpha: float = 0.999
    blend: float = 0.95
    calibration: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.s)
        if not self.p >= 1:
            raise UserError(f"defense.p={self.p} must be at least 1: a root has no gradient at zero")
        for name, weight in (("alpha", self.alpha), ("blend", self.blend)):
            if not 0.5 <= weight <= 1:
                raise UserError(f"defense.{name}={weight} must lie in [0.5, 1]: below it the accurate model decides")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        accurate, robust = models["accurate"], models["robust"]

        def sharpened(x: Tensor, rng: Rng) -> Tensor:
            return mapped(robust(x), self.s, self.c, self.p)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return nuts(accurate(x), sharpened(x, rng), self.alpha)

        def blended(x: Tensor, rng: Rng) -> Tensor:
            logits = robust(x)
            path = mixed(logits, mapped(logits, self.s, self.c, self.p), 0.1)
            return mixed(accurate(x), path, self.blend)

        heads = (
            Head("blended", blended),
            Head("robust", plain(robust)),
            Head("mapped", sharpened),
            Head("accurate", plain(accurate)),
        )
        return Victim(predict, (accurate, robust), heads)


def nuts(accurate: Tensor, robust: Tensor, alpha: float) -> Tensor:
    """log((1 - alpha) onehot(accurate) + alpha softmax(robust)), [B, K]; robust: logits after the map. The choice of
    the accurate network has no gradient."""
    chosen = nn.functional.one_hot(accurate.argmax(1), accurate.shape[1]).bool()
    sure = torch.zeros_like(robust).masked_fill(~chosen, -torch.inf)
    return mixed(sure, robust, alpha)
