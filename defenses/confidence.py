"""Rejection where the network is not sure: the baseline that every detector has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.base import Card
from gauntlet.defenses.rejection import Rejecting, Score
from gauntlet.knobs import choice, knob


@dataclass(frozen=True)
class Confidence(Rejecting):
    """Rejects where the largest probability is small (Hendrycks and Gimpel 2017, arXiv 1610.02136), or where the energy
    -T log sum exp(f / T) of the logits is large (Liu et al. 2020, arXiv 2010.03759).

    Args:
        parts: "model".
        kind: probability (its logarithm, which does not saturate) or energy.
        temperature: T > 0, by which logits are divided.
        accepted, threshold: see `gauntlet.defenses.rejection.Rejecting`.
    """

    card: ClassVar[Card] = Card(
        "A network that gives no answer where its largest probability is small.",
        source="Hendrycks and Gimpel 2017, arXiv 1610.02136",
        claim="detection of misclassified and unfamiliar images; none against an attacker",
    )

    kind: str = choice("probability", ("probability", "energy"))
    temperature: float = knob(1.0, above=0)

    def score(self, model: nn.Module, images: FittingImages) -> Score:
        def score(x: Tensor) -> Tensor:
            logits: Tensor = model(x) / self.temperature
            total = logits.logsumexp(1)
            return self.temperature * total if self.kind == "energy" else logits.amax(1) - total

        return score
