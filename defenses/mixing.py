"""Mixing an accurate and a robust classifier with a fixed weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.certification.certifiable import Blend
from gauntlet.defenses.base import Card, Defense
from gauntlet.knobs import knob
from gauntlet.threat_model.victim import Head, Victim, plain


def mixed(accurate: Tensor, robust: Tensor, alpha: Tensor | float) -> Tensor:
    """Return log((1 - alpha) softmax(accurate) + alpha softmax(robust)), [B, K], within the log domain.

    Args:
        accurate, robust: logits [B, K], already divided by their temperatures.
        alpha: weight of the robust model in [0, 1], a number or [B].

    The result is a logit vector whose softmax is the mixture itself.
    """
    weight = torch.as_tensor(alpha, dtype=robust.dtype, device=robust.device).reshape(-1, 1)
    left = torch.log1p(-weight) + accurate.log_softmax(1)
    return torch.logaddexp(left, weight.log() + robust.log_softmax(1))


@dataclass(frozen=True)
class Mixing(Defense):
    """(1 - alpha) softmax(s_g g(x)) + alpha softmax(s_h h(x)) of an accurate network g and a robust network h.

    From Bai et al., "Mixing classifiers to alleviate the accuracy-robustness trade-off", arXiv 2311.15165. With
    alpha >= 1/2 no output of g overturns a prediction of h whose margin in probability exceeds (1 - alpha) / alpha.

    Args:
        parts: "accurate" and "robust": any two networks.
        alpha: weight of the robust network in [0.5, 1].
        accurate_scale, robust_scale: inverse temperatures s_g, s_h > 0.

    Raises:
        UserError: a value outside its range, or parts of other names.
    """

    card: ClassVar[Card] = Card(
        "A fixed convex mixture of the probabilities of an accurate and a robust network.",
        source="Bai et al. 2024, arXiv 2311.15165",
        claim="that of its robust network, where its margin is large enough",
        forwards=2.0,
        certificate="certifier=mixing_bounds, linf and l2",
    )

    names: ClassVar[tuple[str, ...]] = ("accurate", "robust")

    alpha: float = knob(0.75, least=0.5, most=1, hint="below it the accurate model decides")
    accurate_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")
    robust_scale: float = knob(1.0, above=0, hint="it multiplies the logits of a base model")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        accurate, robust = models["accurate"], models["robust"]

        def predict(x: Tensor, rng: object) -> Tensor:
            return mixed(self.accurate_scale * accurate(x), self.robust_scale * robust(x), self.alpha)

        heads = (Head("robust", plain(robust)), Head("accurate", plain(accurate)))
        blend = Blend(robust, self.alpha, self.robust_scale)
        return Victim(predict, (accurate, robust), heads, mechanism=blend)
