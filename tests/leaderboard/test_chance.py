"""Randomised defenses on the board: their number comes from draws that chose nothing, and has no rank."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from leaderboard.chance import Worst, reason


def table(rows):
    """Rows from (sample, wrong share, margin, fresh share)."""
    names = ("sample", "wrong_share", "margin", "fresh_share")
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


def test_the_worst_candidate_is_chosen_by_one_set_of_draws_and_told_by_the_other():
    worst = Worst.of(table([(7, 0.2, 1.0, 0.9), (7, 0.6, 0.5, 0.4), (3, 0.5, 0.2, 0.1), (3, 0.5, -0.2, 0.3)]))
    assert (worst.ids.tolist(), worst.fresh.tolist()) == ([3, 7], [0.3, 0.4])
    assert worst.accuracy() == pytest.approx((0.65, 0.05))
    other = Worst.of(table([(7, 0.7, 0.5, 0.2), (3, 0.4, 0.0, 1.0)]))
    assert Worst.among([worst, other]).fresh.tolist() == [0.3, 0.2]
    assert np.array_equal(Worst.among([other, worst]).fresh, Worst.among([worst, other]).fresh)


def test_an_error_counts_as_wrong():
    assert Worst.of(table([(1, 0.1, 1.0, 0.1), (1, None, 0.0, None)])).fresh.tolist() == [1.0]


def test_a_deterministic_defense_has_no_shares_and_no_reason():
    assert Worst.of(pa.table({"sample": [1], "margin": [0.5]})) is None
    assert list(reason(SimpleNamespace(rule="", draws=1), [])) == []


@pytest.mark.parametrize(("rule", "words"), [("expected", "65.0 % right"), ("fixed", "known to the attacker")])
def test_a_randomised_defense_is_told_why_it_has_no_rank(rule, words):
    worst = Worst.of(table([(1, 0.5, 0.0, 0.3), (2, 0.5, 0.0, 0.4)]))
    (line,) = reason(SimpleNamespace(rule=rule, draws=100), [worst])
    assert words in line
