"""Certificates against patches, by votes of all bands of an image."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.certification.band_ablation import Banded
from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.errors import UserError
from gauntlet.threat_model.decision import check_finite
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True)
class Patches:
    """Derandomised smoothing of Levine and Feizi 2020 (arXiv 2002.10733): nothing is random and nothing is estimated.

    The radius is the side of the largest square patch, anywhere in the image, that cannot change the prediction; it
    may hold anything. The label is not used.
    """

    kind: ClassVar[Kind] = "sound_det"
    sees_label: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("patch",)
    whole: ClassVar[bool] = False

    @property
    def confidence(self) -> float:
        return 1.0

    def check(self, victim: Victim, threat: Threat) -> None:
        if not isinstance(victim.mechanism, Banded):
            raise UserError(
                "this certifier needs a defense that votes on bands, such as defense=band_smoothing: it certifies what "
                "is deployed"
            )
        if threat.shape:
            raise UserError(
                "this certifier speaks of one square anywhere; leave threat.count, aspect, row and column out"
            )

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        banded = victim.mechanism
        assert isinstance(banded, Banded)
        logs = banded.logs(x)
        votes, scores = banded.votes(logs), banded.scores(logs)
        check_finite(scores, "images")
        predict = scores.argmax(1)  # where two share the largest score, neither leads by a vote: side 0
        own = votes.gather(1, predict[:, None])
        rest = votes.scatter(1, predict[:, None], -1).amax(1)
        side = banded.bands.side(own.squeeze(1) - rest)
        passes = torch.full((len(x),), banded.bands.size)
        work.advance(len(x), int(passes.sum()))
        proven = Certificates.proven(predict, side, torch.full((len(x),), torch.nan), passes)
        return replace(proven, trials=passes, counts=own.cpu())
