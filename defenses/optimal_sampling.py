"""The best probabilities of a randomized ensemble, from the sets of members that an attacker can make wrong at once.

With those sets known, the risk is sum_k max over u of u . a over the samples k: convex and piecewise linear in the
probabilities a (Dbouk and Shanbhag 2023, arXiv 2302.01375). A linear program solves it exactly; the projected
sub-gradient of the authors needs only an attack.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from gauntlet.errors import UserError

Floats = NDArray[np.float64]

Reached = Sequence[Iterable[int]]
"""For each sample the sets of members that one candidate makes wrong, as bits: bit i is member i."""


class Best(NamedTuple):
    """Probabilities [M], of sum one, and the risk there."""

    chances: Floats
    risk: float


def risk(reached: Reached, chances: Floats) -> float:
    """Return the mean over the samples of the largest probability of a wrong answer, in [0, 1]."""
    return float(
        np.mean([max((float(members(u, len(chances)) @ chances) for u in sets), default=0.0) for sets in reached])
    )


def linear_programme(reached: Reached, count: int) -> Best:
    """Return the probabilities of least risk, exactly: minimize sum_k t_k over a and t with t_k >= u . a for each set u
    of k.

    Args:
        reached: as far as known; more sets raise the risk.
        count: members, >= 1.

    Raises:
        UserError: no sample.
    """
    if not len(reached):
        raise UserError("there are no samples to weigh the members on; give images")
    kinds = Counter(tuple(sorted(largest(sets))) for sets in reached)
    rows, columns, values, row = [], [], [], 0
    for kind, sets in enumerate(kinds):
        for u in sets:
            places = np.flatnonzero(members(u, count))
            rows += [row] * (len(places) + 1)
            columns += [*places.tolist(), count + kind]
            values += [1.0] * len(places) + [-1.0]
            row += 1
    if not row:
        return Best(np.full(count, 1 / count), 0.0)
    cost = np.concatenate([np.zeros(count), np.array(list(kinds.values()), float) / len(reached)])
    whole = np.concatenate([np.ones(count), np.zeros(len(kinds))])[None]
    above = coo_matrix((values, (rows, columns)), shape=(row, len(cost)))
    found = linprog(cost, A_ub=above.tocsr(), b_ub=np.zeros(row), A_eq=whole, b_eq=[1.0], bounds=(0, None))
    assert found.success, found.message  # feasible and bounded for any sets
    chances = np.clip(found.x[:count], 0, None)
    return Best(chances / chances.sum(), float(found.fun))


def subgradient(attack: Callable[[Floats], NDArray[np.bool_]], count: int, rounds: int = 10, rate: float = 2.0) -> Best:
    """Return the best of the iterates a <- P(a - rate / (t + 1) g), t = 1, 2, ..., from equal probabilities; P is the
    projection onto the simplex and g the error of each member where the attack at a leaves the images.

    Args:
        attack: probabilities [M] -> which members are wrong on the worst candidate of each sample, bool [samples, M].
        count: members.
        rounds: attacks, >= 1; 10 in the paper.
        rate: 2 in the paper.
    """
    chances, best = np.full(count, 1 / count), Best(np.full(count, 1 / count), np.inf)
    for number in range(1, rounds + 1):
        error = attack(chances).mean(axis=0)
        if (now := float(error @ chances)) <= best.risk:
            best = Best(chances, now)
        chances = on_simplex(chances - rate / (number + 1) * error)
    return best


def on_simplex(point: Floats) -> Floats:
    """Return the nearest point [M] with entries >= 0 that sum to one."""
    ordered = np.sort(point)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
    kept = np.flatnonzero(ordered > excess)[-1]
    nearest: Floats = np.clip(point - excess[kept], 0, None)
    return nearest


def largest(sets: Iterable[int]) -> set[int]:
    """Return the sets that no other contains; the empty one does not count."""
    known = {int(u) for u in sets if u}
    return {u for u in known if not any(u != other and u & other == u for other in known)}


def members(bits: int, count: int) -> Floats:
    """Return 1 for each member of the set, else 0, [count]."""
    return ((int(bits) >> np.arange(count)) & 1).astype(float)
