"""Derandomised smoothing: a vote over all bands of the image, against patches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.certification.band_ablation import Banded, Bands
from gauntlet.defenses.base import Card, Defense
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain


@dataclass(frozen=True)
class BandSmoothing(Defense):
    """A network votes on every band of neighboring columns; a patch reaches few of them.

    Levine and Feizi 2020, "(De)randomized smoothing for certifiable defense against patch attacks", arXiv 2002.10733.
    Votes are steps without a slope, which runs flag: the gradient of the true head is that of the mean probability,
    which decides between equals. The surrogates are the logarithm of that mean, the mean of the logarithms, in which no
    band is lost, and the network on the whole image.

    Args:
        parts: "model", trained on random bands.
        bands: what the network sees, and when it votes.
    """

    card: ClassVar[Card] = Card(
        "The class that a network gives most bands of neighboring columns.",
        source="Levine and Feizi 2020, arXiv 2002.10733",
        claim="a certified size of patches for each image",
        forwards=8.0,
        certificate="certifier=patches, squares of pixels",
    )

    bands: Bands = field(default_factory=Bands)

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        model = models["model"]
        banded = Banded(model, self.bands)

        def predict(x: Tensor, rng: Rng) -> Tensor:
            return banded.scores(banded.logs(x))

        def mean(x: Tensor, rng: Rng) -> Tensor:
            return banded.logs(x).logsumexp(0)

        def each(x: Tensor, rng: Rng) -> Tensor:
            return banded.logs(x).mean(0)

        heads = (Head("mean", mean), Head("each", each), Head("base", plain(model)))
        return Victim(predict, (model,), heads, mechanism=banded)
