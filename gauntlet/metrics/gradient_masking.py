"""How far a defense hides its gradient: what attacks on its deployed forward alone leave, and what all heads leave."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.randomized_result import TRUE, RandomizedResult

MASKED = "masked-gradients"
"""The flag of a run whose other heads broke what its true head did not."""


@dataclass(frozen=True)
class Masking:
    """Shares of the samples, in [0, 1].

    A suite attacks its heads attack by attack, each on what is left: its later attacks on the true head might have
    broken what another head broke before, so there the difference is a bound. Where every run is of one attack it is
    exact.

    Attributes:
        true: left by the true head: what a non-adaptive attack would have reported.
        all: left by all heads.
        bound: whether the index is an upper bound.
        best: the head that added most to the true one; empty: none added anything.
        added: samples that this head added.
    """

    true: float
    all: float
    bound: bool
    best: str
    added: int

    @property
    def index(self) -> float:
        """Return the gradient-masking index, in points."""
        return 100 * (self.true - self.all)


@dataclass(frozen=True, eq=False)
class HeadResults:
    """What one run broke, on the samples that several runs share.

    Attributes:
        declared: whether it attacks every head that the defense declares.
        successes: head -> samples broken through it, in the order of the attack.
        repeated: whether the true head is attacked again on what other heads left.
        broken: wrong without an attack, or broken through any head, bool [n].
        by_true: wrong without an attack, or broken through the true head, bool [n].
    """

    declared: bool
    successes: Mapping[str, int]
    repeated: bool
    broken: NDArray[np.bool_]
    by_true: NDArray[np.bool_]


def masking(runs: Sequence[HeadResults], n: int, randomized: RandomizedResult | None) -> Masking | None:
    """Return the masking over the runs of one model on n samples; None where no run attacks the true head and others.

    randomized: of all these runs, of a randomized defense.
    """
    several = [run for run in runs if run.declared and len(run.successes) > 1 and TRUE in run.successes]
    if not several:
        return None
    heads = [head for run in several for head in run.successes]
    bound = any(run.repeated for run in several)
    if randomized is not None:
        return _of_randomized(heads, randomized, n, bound)
    added = Counter[str]()
    for run in several:
        added.update(run.successes)
    by_true, broken = (np.any([getattr(run, name) for run in runs], axis=0) for name in ("by_true", "broken"))
    return _masking(heads, added, (n - int(by_true.sum())) / n, (n - int(broken.sum())) / n, bound)


def masking_of(total: AttackSummary) -> Masking | None:
    """Return the masking within one run; None where it attacks no head but the true one, or samples are open."""
    added = beyond(total)
    if TRUE not in added or len(added) < 2 or not total.samples or total.bounded:
        return None
    if total.randomized is not None:  # its every head attacks every sample: exact
        return _of_randomized(list(added), total.randomized, total.samples, bound=False)
    attacks = {stage.rpartition("/")[0] for stage in total.survivors if stage.endswith(f"/{TRUE}")}
    more, last = sum(added.values()) - added[TRUE], list(total.survivors.values())[-1]
    return _masking(list(added), added, (last + more) / total.samples, last / total.samples, len(attacks) > 1)


def beyond(total: AttackSummary) -> dict[str, int]:
    """Return head -> samples that it was the first to break, in the order of the stages, for stages ATTACK/HEAD.

    A head meets the survivors of those before it: a count says what a head adds, not what it would break alone.
    """
    found: dict[str, int] = {}
    for (_, before), (stage, after) in pairwise(total.survivors.items()):
        if "/" in stage:
            head = stage.rpartition("/")[2]
            found[head] = found.get(head, 0) + before - after
    return found


def head_lines(total: AttackSummary) -> list[str]:
    """Return one line where there are several heads: what the true head leaves, what all leave, and the index."""
    found = masking_of(total)
    if found is None:
        return []
    accuracies = f"true {found.true:.2%}, all {found.all:.2%}; gradient-masking index {'at most ' * found.bound}"
    best = f"; {found.best} added most, {found.added}" if found.best else ""
    return [f"left by heads     {accuracies}{found.index:.2f} points{best}"]


def _of_randomized(heads: Sequence[str], result: RandomizedResult, n: int, bound: bool) -> Masking:
    """Compare expected accuracies; a head adds the samples whose worst candidate is its, worse than the true head's."""
    worse = result.all.wrong > result.true.wrong
    added = Counter(result.all.head[worse].tolist())
    return _masking(heads, added, result.true.accuracy(n).mean, result.all.accuracy(n).mean, bound)


def _masking(heads: Sequence[str], added: Mapping[str, int], true: float, all_: float, bound: bool) -> Masking:
    others = [head for head in heads if head != TRUE]
    best = max(others, key=lambda head: added.get(head, 0))  # of equals the one that was attacked first
    number = added.get(best, 0)
    return Masking(true, all_, bound, best if number else "", number)
