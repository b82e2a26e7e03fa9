"""Curves as steps: where a share changes, and what it is from there on. Imports no torch."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.metrics.perturbation_size import Floats
from gauntlet.metrics.query_curve import QueryCurve

MOST = 200
"""Steps that a curve keeps at most."""


def robustness_steps(distance: Floats) -> tuple[list[float], list[float]]:
    """Return values of eps, rising from 0, and the share of the samples that survive from each on, in [0, 1].

    >>> robustness_steps(np.array([0.0, 0.1, 0.3, np.inf]))
    ([0.0, 0.1, 0.3], [0.75, 0.5, 0.25])

    Args:
        distance: of the nearest adversarial examples, [n]; infinite without one.
    """
    finite = np.sort(distance[np.isfinite(distance)])
    eps = _thinned(np.unique(np.concatenate([[0.0], finite])))
    survivors = 1 - np.searchsorted(finite, eps, side="right") / max(1, len(distance))
    return eps.tolist(), survivors.tolist()


def query_steps(of: QueryCurve) -> list[tuple[int, float]]:
    """Return queries, rising from 1, and the share of the samples that was broken within them, in [0, 1]."""
    made = np.sort(of.queries[of.broken])
    queries = _thinned(np.unique(made))
    share = np.searchsorted(made, queries, side="right") / len(of.queries)
    steps = [(1, 0.0), *zip(queries.tolist(), share.tolist(), strict=True)]
    if of.spent < math.inf and of.spent > steps[-1][0]:  # no more was found, for as long as all failures had
        steps.append((int(of.spent), steps[-1][1]))
    return steps


def _thinned(places: NDArray[Any]) -> NDArray[Any]:
    """Return at most `MOST` of these places, evenly by rank, the first and the last among them."""
    if len(places) <= MOST:
        return places
    kept: NDArray[Any] = places[np.unique(np.linspace(0, len(places) - 1, MOST).round().astype(int))]
    return kept
