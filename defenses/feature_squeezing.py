"""Rejection of images whose prediction changes when they are squeezed: fewer grey levels, a median of neighbors."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.base import Card
from gauntlet.defenses.rejection import Rejecting, Score
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.bpda import Map, StandIn


@dataclass(frozen=True)
class FeatureSqueezing(Rejecting):
    """Rejects where the probabilities of an image and of a squeezed one differ, in l1, for any squeezer.

    Xu, Evans and Qi 2018, "Feature squeezing", arXiv 1704.01155. Rounding to grey levels has no gradient: the head
    `straight_through` takes that of the identity in its place (BPDA). The median has its own gradient. He et al. 2017,
    arXiv 1706.04701, broke the detector by attacking it together with the network.

    Args:
        parts: "model".
        bits: grey levels are 2^bits; 0: no rounding.
        window: pixels across which the median is taken, odd; 1: none.
        accepted, threshold: see `gauntlet.defenses.rejection.Rejecting`.

    Raises:
        UserError: a value out of range.
    """

    card: ClassVar[Card] = Card(
        "A network that gives no answer where squeezing the image changes its prediction.",
        source="Xu et al. 2018, arXiv 1704.01155",
        claim="detection of examples of eleven attacks that were crafted without regard to the detector",
        forwards=3.0,
        differs="the median window is centered and odd; the non-local means squeezer is left out",
    )

    bits: int = knob(2, least=0, most=8)
    window: int = knob(3, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window % 2 == 0:
            raise UserError(f"defense.window={self.window} must be odd, such as 3: the median is around a pixel")
        if not self.bits and self.window == 1:
            raise UserError("defense.bits=0 and defense.window=1 squeeze nothing; give one of them")

    def score(self, model: nn.Module, images: FittingImages) -> Score:
        return self._score(model, self._rounded)

    def views(self, model: nn.Module, score: Score) -> dict[str, Score]:
        return {"straight_through": self._score(model, StandIn(self._rounded))} if self.bits else {}

    def _score(self, model: nn.Module, rounded: Map) -> Score:
        squeezers = [*([rounded] if self.bits else []), *([self._median] if self.window > 1 else [])]

        def score(x: Tensor) -> Tensor:
            plain = model(x).softmax(1)
            apart = [(model(squeeze(x)).softmax(1) - plain).abs().sum(1) for squeeze in squeezers]
            return -torch.stack(apart, 1).amax(1)

        return score

    def _rounded(self, x: Tensor) -> Tensor:
        levels = float(2**self.bits - 1)
        return (x * levels).round() / levels

    def _median(self, x: Tensor) -> Tensor:
        return median(x, self.window)


def median(x: Tensor, window: int) -> Tensor:
    """Return the median of each pixel's square of `window` x `window` neighbors, with the border repeated, like x."""
    far = window // 2
    padded = nn.functional.pad(x, (far,) * 4, mode="replicate")
    found: Tensor = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4).median(4).values
    return found
