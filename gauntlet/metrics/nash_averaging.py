"""Nash averaging: ratings that copies of a task or of a system cannot move. Balduzzi et al., arXiv 1806.02643."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize

Floats = NDArray[np.float64]


class NashAverage(NamedTuple):
    """The equilibrium of systems, which want high scores, against tasks, which want low ones.

    `value`: score of the equilibrium. `systems`, `tasks`: its mixtures of maximum entropy, each of sum 1. `skill`:
    score of each system against the mixture of tasks. `difficulty`: minus the score that the mixture of systems has in
    each task.
    """

    value: float
    systems: Floats
    tasks: Floats
    skill: Floats
    difficulty: Floats


def nash_average(scores: Floats) -> NashAverage:
    """Rate systems against the mixture of tasks that is hardest for the best mixture of systems.

    Args:
        scores: [systems, tasks], higher is better, all known and in one unit; they are not rescaled by task.

    Raises:
        ValueError: a score is missing.
    """
    if np.isnan(scores).any():
        raise ValueError("Nash averaging needs every score; take the tasks that all systems have")
    unit = max(float(np.abs(scores).max()), 1e-300)
    game = scores / unit
    value, systems = _equilibrium(game)
    _, tasks = _equilibrium(-game.T)
    return NashAverage(value * unit, systems, tasks, scores @ tasks, -(scores.T @ systems))


def rate_pairs(advantage: Floats) -> tuple[Floats, Floats]:
    """Return the maximum-entropy equilibrium of a symmetric game and the rating of each system against it.

    Args:
        advantage: [systems, systems], antisymmetric: log-odds that the row beats the column.
    """
    _, mixture = _equilibrium(advantage)  # the value is 0, so that no row has an advantage over the mixture
    return mixture, advantage @ mixture


def _equilibrium(game: Floats) -> tuple[float, Floats]:
    """Return the value of a game, and of all mixtures of rows that reach it the one of maximum entropy."""
    rows, columns = game.shape
    value = -float(
        linprog(
            [*([0.0] * rows), -1.0],
            A_ub=np.hstack([-game.T, np.ones((columns, 1))]), b_ub=np.zeros(columns),
            A_eq=[[*([1.0] * rows), 0.0]], b_eq=[1.0], bounds=[*([(0, 1)] * rows), (None, None)],
        ).fun
    )  # fmt: skip
    reach = value - 1e-10  # room for the rounding of the linear program
    corners = np.array([_corner(game, reach, goal) for goal in (*np.eye(rows), *game.T)])
    inside = corners.mean(0)
    used = np.flatnonzero(inside > 1e-8)
    loose = (corners @ game - value).max(0) > 1e-8  # columns that some optimal mixture beats by more
    part = game[used]
    start = inside[used] / inside[used].sum()
    if len(used) == 1:
        return value, np.eye(rows)[used[0]]
    constraints = [{"type": "eq", "fun": lambda x: x.sum() - 1}]
    tight = _independent(part[:, ~loose])
    if tight.shape[1]:
        constraints.append({"type": "eq", "fun": lambda x: x @ tight - value})
    if loose.any():
        constraints.append({"type": "ineq", "fun": lambda x: x @ part[:, loose] - value})
    found = minimize(
        lambda x: float(np.sum(x * np.log(np.maximum(x, 1e-300)))), start,
        jac=lambda x: 1 + np.log(np.maximum(x, 1e-300)), bounds=[(0, 1)] * len(used), constraints=constraints,
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    mixture = np.zeros(rows)
    mixture[used] = found.x if found.success else start
    return value, mixture / mixture.sum()


def _corner(game: Floats, reach: float, goal: Floats) -> Floats:
    """Return an optimal mixture of rows that is the largest in the direction `goal`."""
    rows, columns = game.shape
    found = linprog(
        -goal, A_ub=-game.T, b_ub=np.full(columns, -reach), A_eq=[[1.0] * rows], b_eq=[1.0], bounds=[(0, 1)] * rows
    )
    point: Floats = found.x
    return point


def _independent(columns: Floats) -> Floats:
    """Return columns, without those that follow from the others and from the sum of the mixture."""
    kept: list[Floats] = [np.ones(len(columns))]
    for column in columns.T:
        if np.linalg.matrix_rank(np.stack([*kept, column]), tol=1e-9) > len(kept):
            kept.append(column)
    return np.stack(kept[1:], axis=1) if len(kept) > 1 else np.zeros((len(columns), 0))
