"""Overall rankings: tables worked by hand and by other code, then what must hold for every table."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gauntlet.metrics.kemeny import depths, kemeny, kendall_distance, robust_consensus
from gauntlet.metrics.nash_averaging import nash_average, rate_pairs
from gauntlet.metrics.rank_aggregation import (
    MissingScores,
    baldwin,
    borda,
    common,
    condorcet,
    copeland,
    dowdall,
    groups_of,
    leave_one_out,
    mean_win_rate,
    minimax,
    plurality,
    schulze,
    threshold,
    two_level_borda,
    wins,
)

A, B, C, D = range(4)
CYCLE = np.array([[70, 60, 20, 80, 85], [65, 70, 35, 75, 80], [60, 65, 40, 90, 70], [40, 50, 55, 95, 60]], float)
HOLES = np.array([[70, 60, np.nan, 80], [65, 70, 35, 75], [60, 65, 40, np.nan], [40, np.nan, 55, 95]])


def brute_force(won):
    """Cost and number of the best of all rankings."""
    size = len(won)
    costs = [sum(won[p[j], p[i]] for i in range(size) for j in range(i + 1, size)) for p in permutations(range(size))]
    return min(costs), sum(np.isclose(costs, min(costs)))


def test_a_table_with_a_cycle():
    assert plurality(CYCLE).tolist() == [2, 1, 0, 2]
    assert borda(CYCLE).tolist() == [8, 8, 8, 6]
    assert dowdall(CYCLE).round(4).tolist() == [2.9167, 2.5833, 2.1667, 2.75]
    assert copeland(CYCLE).tolist() == [1, 1, 1, -3]
    assert minimax(CYCLE).tolist() == [-3, -3, -3, -3]
    assert minimax(CYCLE, "margins").tolist() == [-1, -1, -1, -1]
    assert condorcet(CYCLE) is None
    assert threshold(CYCLE) == [C]
    assert baldwin(CYCLE) == [[A, B, C], [D]]
    assert schulze(CYCLE) == [[A, B, C], [D]]
    assert mean_win_rate(CYCLE).round(4).tolist() == [0.5333, 0.5333, 0.5333, 0.4]
    assert wins(CYCLE).tolist() == [[0, 3, 2, 3], [2, 0, 3, 3], [3, 2, 0, 3], [2, 2, 2, 0]]
    found = kemeny(wins(CYCLE))
    assert (found.cost, found.optima) == (13, 3)
    assert found.groups == [[A, B, C], [D]]


def test_nash_averaging_of_the_table_is_not_moved_by_copies_and_easy_tasks():
    found = nash_average(CYCLE)
    assert found.value == pytest.approx(48.5714, abs=1e-4)
    assert found.systems == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=1e-5)
    assert found.tasks == pytest.approx([3 / 7, 0, 4 / 7, 0, 0], abs=1e-5)
    assert found.skill == pytest.approx([41.4286, 47.8571, 48.5714, 48.5714], abs=1e-3)
    copies = np.hstack([CYCLE, CYCLE[:, [2, 2]]])
    again = nash_average(copies)
    assert again.skill == pytest.approx(found.skill, abs=1e-3)
    assert again.tasks == pytest.approx([3 / 7, 0, 4 / 21, 0, 0, 4 / 21, 4 / 21], abs=1e-4)
    assert borda(copies).tolist() == [8, 10, 12, 12]
    assert kemeny(wins(copies)).groups == [[D], [C], [B], [A]]
    easy = np.hstack([CYCLE, [[94], [95], [95], [96]]])
    assert nash_average(easy).skill == pytest.approx(found.skill, abs=1e-3)
    clones = np.vstack([CYCLE, CYCLE[D] - 1, CYCLE[D] - 2])
    assert borda(clones)[:4].tolist() == [14, 14, 14, 16]
    assert np.argsort(-copeland(clones)[:4], kind="stable").tolist() == [A, B, C, D]


@pytest.mark.parametrize(
    ("scores", "value", "systems", "tasks", "skill"),
    [
        ([[60, 40], [45, 55]], 50, [1 / 3, 2 / 3], [1 / 2, 1 / 2], [50, 50]),
        ([[60, 40, 80], [45, 55, 78]], 50, [1 / 3, 2 / 3], [1 / 2, 1 / 2, 0], [50, 50]),
        ([[60, 40, 40], [45, 55, 55]], 50, [1 / 3, 2 / 3], [1 / 2, 1 / 4, 1 / 4], [50, 50]),
        ([[60, 40], [45, 55], [50, 30]], 50, [1 / 3, 2 / 3, 0], [1 / 2, 1 / 2], [50, 50, 40]),
    ],
)  # fmt: skip
def test_nash_averaging_in_closed_form(scores, value, systems, tasks, skill):
    found = nash_average(np.array(scores, float))
    assert found.value == pytest.approx(value, abs=1e-6)
    assert found.systems == pytest.approx(systems, abs=1e-4)
    assert found.tasks == pytest.approx(tasks, abs=1e-4)
    assert found.skill == pytest.approx(skill, abs=1e-2)


def test_nash_averaging_of_pairs():
    won = wins(CYCLE)
    odds = np.log((won + 0.5) / (won.T + 0.5))
    mixture, rating = rate_pairs(odds)
    assert mixture == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-4)
    assert rating == pytest.approx([0, 0, 0, -0.3365], abs=1e-3)
    cycle = np.log(9) * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    assert rate_pairs(cycle)[0] == pytest.approx([1 / 3] * 3, abs=1e-4)
    twice = cycle[np.ix_([0, 1, 2, 2], [0, 1, 2, 2])]
    assert rate_pairs(twice)[0] == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6], abs=1e-4)
    mixture, rating = rate_pairs(np.array([[0.0, 1, 2], [-1, 0, 1], [-2, -1, 0]]))
    assert mixture == pytest.approx([1, 0, 0], abs=1e-6)
    assert rating == pytest.approx([0, -1, -2], abs=1e-5)


def test_borda_may_pass_over_a_system_that_beats_every_other():
    scores = np.array([[3, 3, 3, 1, 1], [2, 2, 2, 3, 3], [1, 1, 1, 2, 2]], float)
    assert borda(scores).tolist() == [6, 7, 2]
    assert condorcet(scores) == A
    assert copeland(scores).tolist() == [2, 0, -2]
    assert minimax(scores).tolist() == [0, -3, -5]
    assert baldwin(scores)[0] == [A]
    assert plurality(scores).tolist() == [3, 2, 0]
    assert dowdall(scores).round(4).tolist() == [3.6667, 3.5, 2]
    found = kemeny(wins(scores))
    assert (found.cost, found.optima, found.groups) == (4, 1, [[A], [B], [C]])


def test_ties():
    scores = np.array([[50, 50, 60], [50, 50, 40], [40, 50, 50], [30, 20, 10]], float)
    assert borda(scores).tolist() == [7.5, 5.5, 5, 0]
    assert borda(scores, "max").tolist() == [6, 4, 4, 0]
    assert borda(scores, "min").tolist() == [9, 7, 6, 0]
    assert plurality(scores).tolist() == [1, 0, 0, 0]
    assert condorcet(scores) == A
    assert threshold(scores) == [A]


def test_of_binary_values_borda_says_what_the_accuracy_says():
    assert borda(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], float)).tolist() == [4.5, 4.5, 3]
    values = (np.random.default_rng(0).random((4, 50)) < 0.6).astype(float)
    assert len(set((borda(values) - 2 * values.sum(1)).round(9))) == 1


def test_two_levels_are_not_driven_by_one_sample():
    first = np.array([[9, 1, 1], [2, 2, 2], [1.5, 1.5, 3]])
    second = np.array([[1, 1, 9], [2, 2, 2], [3, 1.5, 1.5]])
    assert borda(first).tolist() == borda(second).tolist() == [2, 4, 3]
    assert two_level_borda([first, second]).tolist() == [0, 4, 2]


def test_depth_and_robust_consensus():
    profile = [(A, B, C, D), (A, B, C, D), (A, B, D, C), (B, A, C, D), (D, C, A, B), (D, C, A, B)]
    assert np.round(depths(profile), 3).tolist() == [4, 4, 4, 3.333, 2.667, 2.667]
    won = np.array(
        [[sum(v.index(i) < v.index(j) for v in profile) if i != j else 0 for j in range(4)] for i in range(4)]
    )
    found = kemeny(won.astype(float))
    assert found.optima == 2
    assert found.groups == [[A], [B], [C, D]]
    assert robust_consensus(won.astype(float), 0.1) == [[A], [B], [C, D]]
    assert kendall_distance((A, B, C, D), (D, C, B, A)) == 6


def test_missing_scores_are_never_filled():
    assert mean_win_rate(HOLES).round(4).tolist() == [0.5, 0.4167, 0.4444, 0.6667]
    assert copeland(HOLES).tolist() == [1, -1, -1, 1]
    found = kemeny(wins(HOLES))
    assert (found.cost, found.optima) == (6, 2)
    assert common(HOLES)[A].tolist() == [3, 3, 2, 2]
    for rule in (plurality, borda, dowdall, threshold, baldwin):
        with pytest.raises(MissingScores, match=r"missing \(3 of 16\)"):
            rule(HOLES)
    assert np.isnan(mean_win_rate(np.array([[1.0], [np.nan]]))).all()
    assert groups_of(np.array([1.0, np.nan, 1.0])) == [[0, 2]]


def test_stability_under_leaving_out():
    clone = np.vstack([CYCLE, CYCLE[D] - 1])
    assert leave_one_out(clone, borda, 0)[D] == (1, 4)  # first beside its weak clone, last without it
    assert leave_one_out(CYCLE, copeland, 1)[D] == (2, 4)  # second without the first task: there it ties with all


tables = st.integers(2, 5).flatmap(
    lambda n: st.integers(1, 5).flatmap(
        lambda t: st.lists(st.lists(st.integers(0, 4), min_size=t, max_size=t), min_size=n, max_size=n)
    )
)


@settings(max_examples=60, deadline=None)
@given(tables, st.randoms())
def test_rules_hold_for_every_table(rows, random):
    scores = np.array(rows, float)
    order = list(range(len(scores)))
    random.shuffle(order)
    for rule in (borda, plurality, dowdall, copeland, minimax, mean_win_rate):
        assert rule(scores[order]) == pytest.approx(rule(scores)[order])
    assert mean_win_rate(scores) * (len(scores) - 1) * scores.shape[1] == pytest.approx(borda(scores))
    assert borda(-scores) == pytest.approx((len(scores) - 1) * scores.shape[1] - borda(scores))
    found = kemeny(wins(scores))
    assert (found.cost, found.optima) == pytest.approx(brute_force(wins(scores)))
    first = condorcet(scores)
    if first is not None:
        assert copeland(scores).argmax() == minimax(scores, "margins").argmax() == first
        assert baldwin(scores)[0] == kemeny(wins(scores)).groups[0] == schulze(scores)[0] == [first]


@settings(max_examples=25, deadline=None)
@given(tables, st.integers(0, 4))
def test_copies_do_not_move_nash_averages(rows, copied):
    scores = np.array(rows, float)
    found = nash_average(scores)
    again = nash_average(np.hstack([scores, scores[:, [copied % scores.shape[1]]]]))
    assert again.value == pytest.approx(found.value, abs=1e-6)
    assert (scores.T @ found.systems).min() == pytest.approx(found.value, abs=1e-6)
    assert found.skill.max() == pytest.approx(found.value, abs=1e-5)
