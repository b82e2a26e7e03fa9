"""Certificates for an accurate network mixed with a robust one, from bounds on the robust one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.certifiable import Blend, check_weight
from gauntlet.certification.crown.graph_tracing import trace
from gauntlet.certification.linear_bounds import Claim, LinearBounds
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True)
class MixingBounds(LinearBounds):
    """`LinearBounds` for (1 - a) softmax(g) + a softmax(s h), whatever the network g says.

    g can add at most 1 - a to a class: the mixture predicts y wherever the probability of y under h leads all others
    by more than (1 - a) / a (Bai et al., arXiv 2301.12554). Bounds on the logits of h prove such a lead in the
    whole ball: p_y - p_i = (1 - exp(-d_i)) / (1 + sum_j exp(-d_j)) with differences d of logits is least where all
    of them are. Where a third network chooses a for each image, its least value counts. The margin of a record
    is a (p_y - p_i) - (1 - a), proven, less what float32 rounds; of a wrong image that of the deployed scores.

    Args: as of `LinearBounds`.
    """

    method: str = "alpha_crown"

    def check(self, victim: Victim, threat: Threat) -> None:
        check_weight(_blend(victim))
        super().check(victim, threat)

    def _claim(self, victim: Victim, x: Tensor, rng: Rng) -> Claim:
        blend = _blend(victim)

        def scores(images: Tensor) -> Tensor:
            logits: Tensor = blend.scale * blend.robust(images)
            return logits

        graph = trace(scores, (blend.robust,), tuple(x.shape[1:]))
        return Claim(graph, needed(blend.alpha, graph.classes), lambda margins: lead(margins, blend.alpha), scores)


def lead(margins: Tensor, alpha: float) -> Tensor:
    """Return the margin of the mixture at least, float64 [B], from lower bounds of p's differences of logits [B, K -
    1].
    """
    odds = (-margins).exp()
    least = margins.amin(1)
    # Behind another class the lead is least where these two have all the probability.
    apart = torch.where(least > 0, (1 - odds.amax(1)) / (1 + odds.sum(1)), (least / 2).tanh())
    return alpha * apart - (1 - alpha) - rounding(margins.shape[1] + 1)


def needed(alpha: float, classes: int) -> float:
    """Return the margin of scaled logits that is enough where all other classes have it; infinite where nothing is."""
    share = (1 - alpha + rounding(classes)) / alpha
    return math.log((1 + share * (classes - 1)) / (1 - share)) if share < 1 else math.inf


def rounding(classes: int) -> float:
    """More than float32 takes from a margin in probability on the way from the logits to the scores of the mixture:
    two sums of K exponentials, and a handful of operations within 6e-8 of a logarithm of a probability each."""
    return 1e-5 + 2e-7 * classes


def _blend(victim: Victim) -> Blend:
    if not isinstance(victim.mechanism, Blend):
        raise UserError(
            "certifier=mixing_bounds needs a mixture of an accurate and a robust network, such as defense=mixing or "
            "defense=adaptive_smoothing"
        )
    return victim.mechanism
