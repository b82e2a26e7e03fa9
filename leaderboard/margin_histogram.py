"""How far from the decision boundary the clean samples lie in scores, and which of them the attacks broke."""

from dataclasses import dataclass

import numpy as np

from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.sample_verdicts import locate

BINS = 24
"""At most: fewer where there are few samples."""


@dataclass(frozen=True)
class MarginBin:
    """Samples whose clean margin lies in [low, high): all of them are right without an attack."""

    low: float
    high: float
    robust: int
    broken: int

    @property
    def total(self) -> int:
        return self.robust + self.broken


def margin_histogram(entry: Entry) -> tuple[MarginBin, ...]:
    """Return the samples that are right without an attack, by their margin: the score of their class less the best
    other score; empty where there are fewer than two known margins, or samples without an answer.
    """
    margin = entry.facts.clean_margin.astype(np.float64)
    known = np.isfinite(margin) & ~entry.clean_wrong
    if entry.open or entry.expected or entry.threat.unbounded or len(np.unique(margin[known])) < 2:
        return ()
    robust = locate(entry.ids, entry.robust_ids)[1]
    count = int(np.clip(np.sqrt(known.sum()), 4, BINS))
    edges = np.linspace(0.0, margin[known].max() * (1 + 1e-9), count + 1)
    each = [np.histogram(margin[known & of], edges)[0] for of in (robust, ~robust)]
    return tuple(
        MarginBin(float(low), float(high), int(kept), int(lost))
        for low, high, kept, lost in zip(edges[:-1], edges[1:], *each, strict=True)
    )
