"""Certificates against poisoning of the training set, by networks that were trained on parts of it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.certification.certifier import Certificates, Kind, Work
from gauntlet.certification.partition_votes import partition_votes
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True)
class Poisoning:
    """Deep Partition Aggregation (Levine and Feizi 2021, arXiv 2006.14768), Finite Aggregation (Wang et al. 2022,
    arXiv 2202.02628) and Run-Off Election over both (Rezaei et al. 2023, arXiv 2302.02300), as the defense has it.

    The radius is the number of changes of the training set that cannot change the prediction, whatever they are: an
    image added, an image removed, or an image with another label. An image that is replaced counts as two. Nothing is
    random and nothing is estimated; the label is not used.
    """

    kind: ClassVar[Kind] = "sound_det"
    sees_label: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = (Threat.POISONING,)
    whole: ClassVar[bool] = False

    @property
    def confidence(self) -> float:
        return 1.0

    def check(self, victim: Victim, threat: Threat) -> None:
        partition_votes(victim.mechanism)

    def __call__(
        self, victim: Victim, x: Tensor, y: Tensor | None, *, threat: Threat, rng: Rng, work: Work
    ) -> Certificates:
        mechanism = partition_votes(victim.mechanism)
        ballot = mechanism.ballot(x)
        predict, radius = (torch.from_numpy(found) for found in mechanism.certified(ballot))
        passes = torch.full((len(x),), ballot.networks)
        work.advance(len(x), int(passes.sum()))
        proven = Certificates.proven(predict, radius, torch.full((len(x),), torch.nan), passes)
        own = torch.from_numpy(ballot.votes).gather(1, predict[:, None])
        return replace(proven, trials=passes, counts=own)
