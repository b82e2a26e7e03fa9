"""Overall rankings across tables, by positional and pairwise voting rules. No random numbers, no imputation.

Scores are float64 [systems, tasks], higher is better, NaN where a system was not evaluated. Two systems are compared
on the tasks that both have; positional rules (Plurality, Borda, Dowdall, Threshold, Baldwin) are defined where every
score is known, and refuse a table with holes, because every way to fill them rewards or punishes missing evaluations.
Rules and their names: Rofin et al., "Vote'n'Rank" (arXiv 2210.05769); win rate: Liang et al., HELM (arXiv 2211.09110).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ties = Literal["average", "max", "min"]


class MissingScores(ValueError):
    """Raised where a rule is not defined for a table with holes."""


def ranks(scores: Floats, ties: Ties = "average") -> Floats:
    """Return the rank of each system in each task, 1 for the best, [systems, tasks]; NaN where it has no score."""
    result: Floats = rankdata(-scores, method=ties, axis=0, nan_policy="omit")
    return result


def wins(scores: Floats) -> Floats:
    """Return in how many tasks the one system strictly beats the other, [systems, systems]; ties count for neither."""
    with np.errstate(invalid="ignore"):
        result: Floats = (scores[:, None, :] > scores[None, :, :]).sum(-1).astype(np.float64)
        return result


def common(scores: Floats) -> NDArray[np.int64]:
    """Return on how many tasks two systems can be compared, [systems, systems]."""
    known = (~np.isnan(scores)).astype(np.int64)
    return known @ known.T


def mean_win_rate(scores: Floats) -> Floats:
    """Return the share of the others that a system beats, ties half, averaged over its tasks, [systems].

    Tasks with fewer than two scores are skipped; NaN for a system that has no other task. On a whole table it is
    Borda's count with mid-ranks, divided by its largest value.
    """
    rank = ranks(scores)
    count = (~np.isnan(scores)).sum(0)
    contested = count >= 2
    rate = (count[contested] - rank[:, contested]) / (count[contested] - 1)
    known = ~np.isnan(rate)
    total = known.sum(1)
    return np.where(total > 0, np.where(known, rate, 0.0).sum(1) / np.maximum(total, 1), np.nan)


def plurality(scores: Floats) -> Floats:
    """Return in how many tasks each system alone is the first, [systems]."""
    result: Floats = (ranks(_whole(scores, "plurality"), "max") == 1).sum(1).astype(np.float64)
    return result


def borda(scores: Floats, ties: Ties = "average") -> Floats:
    """Return Borda's count, the sum over tasks of how many systems come after, [systems]."""
    result: Floats = (len(scores) - ranks(_whole(scores, "borda"), ties)).sum(1)
    return result


def dowdall(scores: Floats) -> Floats:
    """Return the sum over tasks of 1 / rank, [systems]."""
    result: Floats = (1 / ranks(_whole(scores, "dowdall"), "min")).sum(1)
    return result


def threshold(scores: Floats) -> list[int]:
    """Return the systems that are last least often, among them next to last least often, and so on."""
    rank = ranks(_whole(scores, "threshold"), "max")
    left = np.arange(len(scores))
    for place in range(len(scores), 1, -1):
        times = (rank[left] == place).sum(1)
        left = left[times == times.min()]
    return [int(i) for i in left]


def baldwin(scores: Floats) -> list[list[int]]:
    """Return the groups of systems in the order in which elimination by the smallest Borda count leaves them, best
    first."""
    left, dropped = list(range(len(_whole(scores, "baldwin")))), []
    while left:
        count = borda(scores[left])
        lowest = [system for system, value in zip(left, count, strict=True) if np.isclose(value, count.min())]
        dropped.append(lowest)
        left = [system for system in left if system not in lowest]
    return dropped[::-1]


def condorcet(scores: Floats) -> int | None:
    """Return the system that beats every other in more tasks than it loses, or None where there is none."""
    beats = _beats(scores)
    alone = np.flatnonzero(beats.sum(1) == len(scores) - 1)
    return int(alone[0]) if len(alone) else None


def copeland(scores: Floats) -> Floats:
    """Return how many others a system beats in most of the common tasks, minus how many beat it, [systems]."""
    beats = _beats(scores)
    result: Floats = beats.sum(1).astype(np.float64) - beats.sum(0)
    return result


def minimax(scores: Floats, measure: Literal["winning votes", "margins", "opposition"] = "winning votes") -> Floats:
    """Return minus the worst defeat of each system, [systems]; 0 for a single one."""
    won = wins(scores)
    lost = won.T
    size = {"winning votes": np.where(lost > won, lost, 0.0), "margins": lost - won, "opposition": lost.copy()}[measure]
    np.fill_diagonal(size, -np.inf)
    worst = size.max(1)
    return np.where(np.isinf(worst), 0.0, 0.0 - worst)


def schulze(scores: Floats) -> list[list[int]]:
    """Return groups of systems by the strongest paths of majorities, best first (Schulze 2011, winning votes)."""
    won = wins(scores)
    path = np.where(won > won.T, won, 0.0)
    for middle in range(len(path)):
        path = np.maximum(path, np.minimum(path[:, middle, None], path[None, middle, :]))
    np.fill_diagonal(path, 0.0)
    return groups_of((path > path.T).sum(1).astype(np.float64) - (path < path.T).sum(1))


def two_level_borda(tables: list[Floats]) -> Floats:
    """Return Borda's count over the rankings that Borda gives inside each table, [systems].

    Each table is [systems, samples], with continuous values. Of binary values the count inside a table is affine in the
    number of ones, so that this adds nothing to an accuracy. Colombo et al., arXiv 2202.03799.
    """
    return borda(np.stack([borda(table) for table in tables], axis=1))


def groups_of(scores: Floats) -> list[list[int]]:
    """Return the systems with equal scores together, best first; those without a score are left out."""
    known = sorted((i for i in range(len(scores)) if not np.isnan(scores[i])), key=lambda i: (-scores[i], i))
    groups = [[i] for i in known[:1]]
    for before, after in pairwise(known):
        if np.isclose(scores[before], scores[after], rtol=1e-12, atol=1e-12):
            groups[-1].append(after)
        else:
            groups.append([after])
    return groups


def leave_one_out(scores: Floats, rule: Callable[[Floats], Floats], axis: Literal[0, 1]) -> list[tuple[int, int]]:
    """Return the best and the worst rank of each system when each system (axis 0) or each task (axis 1) in turn is left
    out; (0, 0) for one that never has a rank.
    """
    seen: list[set[int]] = [set() for _ in scores]
    for out in (None, *range(scores.shape[axis])):
        rows = [i for i in range(len(scores)) if axis or i != out]
        part = scores[rows] if axis == 0 or out is None else np.delete(scores, out, axis=1)
        if 0 in part.shape:
            continue
        place = 1
        for group in groups_of(rule(part)):
            for i in group:
                seen[rows[i]].add(place)
            place += len(group)
    return [(min(places), max(places)) if places else (0, 0) for places in seen]


def _beats(scores: Floats) -> Bools:
    won = wins(scores)
    beats: Bools = won > won.T
    return beats


def _whole(scores: Floats, rule: str) -> Floats:
    holes = int(np.isnan(scores).sum())
    if holes:
        raise MissingScores(
            f"{rule} is not defined where scores are missing ({holes} of {scores.size}); "
            "take a pairwise rule, or only the tasks that all systems have"
        )
    return scores
