"""The Kemeny consensus of rankings, all of its optima, and how deep a ranking lies among its voters.

Kemeny (1959). A table of systems falls into components that every optimum orders alike (extended Condorcet criterion,
Truchon 1998); inside a component a dynamic program over subsets finds all optima at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]

LARGEST = 16
"""Systems that no majority separates, at most: their subsets are counted."""


class Kemeny(NamedTuple):
    """The optimal cost, the number of optimal rankings, and what they agree upon.

    `groups` holds systems in an order that every optimum keeps, best first; systems whose order differs between optima
    are in one group.
    """

    cost: float
    optima: int
    groups: list[list[int]]


def kemeny(wins: Floats) -> Kemeny:
    """Return the rankings that contradict the fewest pairwise wins.

    Args:
        wins: [systems, systems], the votes for the row against the column.

    Raises:
        ValueError: more than `LARGEST` systems form one cycle or are tied.
    """
    cost, optima, groups = 0.0, 1, []
    components = _components(wins)
    for place, part in enumerate(components):
        if len(part) > LARGEST:
            raise ValueError(
                f"{len(part)} systems form one cycle of majorities; at most {LARGEST} can be ranked exactly"
            )
        one = _exact(wins[np.ix_(part, part)])
        cost += one.cost + sum(wins[np.ix_(after, part)].sum() for after in components[place + 1 :])
        optima *= one.optima
        groups += [[part[i] for i in group] for group in one.groups]
    return Kemeny(cost, optima, groups)


def _components(wins: Floats) -> list[list[int]]:
    """Return the systems that no strict majority separates together, in the order of the majorities."""
    count, label = connected_components(wins >= wins.T, directed=True, connection="strong")
    parts = [[int(i) for i in np.flatnonzero(label == each)] for each in range(count)]
    ahead = wins > wins.T
    return sorted(parts, key=lambda part: -int(ahead[part[0]].sum() - ahead[:, part[0]].sum()))


def _exact(wins: Floats) -> Kemeny:
    """Return the consensus of one component; ranks are given out from the best, a subset at a time."""
    size = len(wins)
    sets = 1 << size
    members = ((np.arange(sets)[:, None] >> np.arange(size)) & 1).astype(bool)
    against = (~members).astype(np.float64) @ wins  # [set, i]: votes of those not in the set against i
    best, ways = np.full(sets, np.inf), [0] * sets
    best[0], ways[0] = 0.0, 1
    for chosen in range(1, sets):
        for last in np.flatnonzero(members[chosen]):
            before = chosen ^ (1 << int(last))
            cost = best[before] + against[before, last]
            if cost < best[chosen] - 1e-9:
                best[chosen], ways[chosen] = cost, ways[before]
            elif cost <= best[chosen] + 1e-9:
                ways[chosen] += ways[before]
    optimal = _optimal_sets(best, against, members)
    below = np.zeros((size, size), bool)  # [i, j]: an optimum ranks i above j
    for chosen in optimal:
        below |= members[chosen][:, None] & ~members[chosen][None, :]
    _, label = connected_components(below & below.T, directed=False)
    firm = below & ~below.T
    order = sorted(range(size), key=lambda i: -int(firm[i].sum() - firm[:, i].sum()))
    groups: dict[int, list[int]] = {}
    for i in order:
        groups.setdefault(int(label[i]), []).append(i)
    return Kemeny(float(best[-1]), ways[-1], [sorted(group) for group in groups.values()])


def _optimal_sets(best: Floats, against: Floats, members: NDArray[np.bool_]) -> set[int]:
    """Return the subsets that are the upper part of an optimal ranking."""
    optimal, open_sets = set(), {len(best) - 1}
    while open_sets:
        chosen = open_sets.pop()
        optimal.add(chosen)
        for last in np.flatnonzero(members[chosen]):
            before = chosen ^ (1 << int(last))
            if before not in optimal and abs(best[before] + against[before, last] - best[chosen]) <= 1e-9:
                open_sets.add(before)
    return optimal


def kendall_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many pairs two rankings of the same systems, best first, put in opposite order."""
    place = {system: at for at, system in enumerate(second)}
    at = np.array([place[system] for system in first])
    return int(np.triu(at[:, None] > at[None, :], 1).sum())


def depths(profile: Sequence[Sequence[int]]) -> list[float]:
    """Return the depth of each ranking of a profile among all of them: the largest possible distance minus its mean
    distance. The deepest of all rankings is Kemeny's; Goibert et al., arXiv 2303.12878.
    """
    size = len(profile[0])
    most = size * (size - 1) / 2
    return [most - float(np.mean([kendall_distance(one, other) for other in profile])) for one in profile]


def robust_consensus(wins: Floats, theta: float) -> list[list[int]]:
    """Return the Kemeny consensus with neighbors merged whose support lies within theta of one half, best first."""
    total = wins + wins.T
    share = np.divide(wins, total, out=np.full_like(wins, 0.5), where=total > 0)
    merged: list[list[int]] = []
    for group in kemeny(wins).groups:
        if merged and np.abs(share[np.ix_(merged[-1], group)] - 0.5).max() <= theta:
            merged[-1] = [*merged[-1], *group]
        else:
            merged.append(list(group))
    return merged
