"""What the records say of each sample beside its verdict: its class, where it ended, and its margin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gauntlet.leaderboard.sample_verdicts import Bools, Floats, Ints, locate


@dataclass(frozen=True, eq=False)
class SampleFacts:
    """Facts of samples, ordered by id.

    Attributes:
        label: class of each sample, int32 [n]; -1 where it is unknown.
        reached: class of its nearest adversarial example on record, or of the prediction without an attack where that
            is wrong; -1 where neither is, int32 [n].
        clean_margin: score of its class less the best other score, without an attack, float32 [n]; NaN where unknown.
    """

    label: NDArray[np.int32]
    reached: NDArray[np.int32]
    clean_margin: NDArray[np.float32]


class KnowsSamples(Protocol):
    """What a run knows: facts and verdicts of its samples."""

    @property
    def ids(self) -> Ints: ...
    @property
    def facts(self) -> SampleFacts: ...
    @property
    def nearest_distance(self) -> Floats: ...
    @property
    def clean_wrong(self) -> Bools: ...


def gathered(runs: Sequence[KnowsSamples], ids: Ints) -> SampleFacts:
    """Return what several runs say of these samples together.

    The first run that knows a sample speaks of its class and margin. Where it ended is told by the run with the nearest
    example; a wrong prediction without an attack is nearer than any.
    """
    label, reached = np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.int32)
    margin, least = np.full(len(ids), np.nan, np.float32), np.full(len(ids), np.inf)
    for run in runs:
        if not len(run.ids):
            continue
        place, there = locate(ids, run.ids)
        new = there & (label < 0)
        label[new], margin[new] = run.facts.label[place][new], run.facts.clean_margin[place][new]
        distance = np.where(run.clean_wrong, -1.0, run.nearest_distance)[place]
        nearer = there & (distance < least)
        reached[nearer], least[nearer] = run.facts.reached[place][nearer], distance[nearer]
    return SampleFacts(label, reached, margin)
