"""How far a defense hides its gradient: what attacks on its deployed forward alone leave, and what all heads leave."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.leaderboard.randomized_entries import TRUE, Chance
from gauntlet.leaderboard.sample_verdicts import Bools, Stage


@dataclass(frozen=True)
class Masking:
    """Shares of the samples, in [0, 1].

    A suite attacks its heads attack by attack, each on what is left: its later attacks on the true head might have
    found what another head found before, so there the difference is a bound. Where every run is of one attack it is
    exact.
    """

    true: float  # left by the true head: what a non-adaptive attack would have reported
    all: float
    bound: bool
    best: str  # the head that added most to the true one; empty: none added anything
    added: int  # samples that this head added

    @property
    def index(self) -> float:
        """The gradient-masking index, in points."""
        return 100 * (self.true - self.all)


@dataclass(frozen=True, eq=False)
class Seen:
    """What one run of an entry broke, on the samples of the entry, and its stages."""

    declared: bool
    stages: Sequence[Stage]
    broken: Bools
    by_true: Bools  # wrong as it is, or broken through the true head
    standing: bool  # whether a stage attacks only what the ones before left


def masking(runs: Sequence[Seen], n: int, chance: Chance | None) -> Masking | None:
    """Of the runs of an entry on n samples; None where no run attacks the true head and others.

    chance: of all these runs, of a randomised defense.
    """
    told = [run for run in runs if run.declared and len(_heads(run)) > 1 and TRUE in _heads(run)]
    if not told:
        return None
    bound = any(run.standing and sum(stage.head == TRUE for stage in run.stages) > 1 for run in told)
    if chance is not None:
        worse = chance.all.wrong > chance.true.wrong
        found = Counter(chance.all.head[worse].tolist())
        left = (chance.true.accuracy(n).mean, chance.all.accuracy(n).mean)
    else:
        found = Counter[str]()
        for run in told:
            found.update({stage.head: stage.found for stage in run.stages[1:] if stage.head != TRUE})
        by_true, broken = (np.any([getattr(run, name) for run in runs], axis=0) for name in ("by_true", "broken"))
        left = ((n - int(by_true.sum())) / n, (n - int(broken.sum())) / n)
    others = [head for run in told for head in _heads(run) if head != TRUE]
    best = max(others, key=lambda head: found[head])  # of equals the one that was attacked first
    return Masking(*left, bound, best if found[best] else "", found[best])


def _heads(run: Seen) -> list[str]:
    return list(dict.fromkeys(stage.head for stage in run.stages[1:]))
