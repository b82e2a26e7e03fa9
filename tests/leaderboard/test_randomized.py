"""Randomized defenses on the board: their number comes from draws that chose nothing, and has no rank."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from gauntlet.leaderboard.randomized_entries import unranked_because
from gauntlet.metrics.confidence import lower
from gauntlet.metrics.randomized_result import RandomizedResult, WorstCandidates


def table(rows):
    """Rows from (sample, wrong share, margin, fresh share)."""
    names = ("sample", "wrong_share", "margin", "fresh_share")
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


def test_the_worst_candidate_is_chosen_by_one_set_of_draws_and_told_by_the_other():
    worst = WorstCandidates.of(table([(7, 0.2, 1.0, 0.9), (7, 0.6, 0.5, 0.4), (3, 0.5, 0.2, 0.1), (3, 0.5, -0.2, 0.3)]))
    assert (worst.ids.tolist(), worst.fresh.tolist()) == ([3, 7], [0.3, 0.4])
    told = worst.accuracy()
    assert told.mean == pytest.approx(0.65)
    assert told.interval == pytest.approx((1 - 0.9875**0.5, 1.0))  # at least one of two, and no less than all
    told = worst.accuracy(4)  # what is not on record is neither right nor wrong
    assert (told.mean, told.open) == (pytest.approx(0.825), 2)
    assert told.interval == pytest.approx((float(lower(1, 4, 0.0125)), 1.0))
    other = WorstCandidates.of(table([(7, 0.7, 0.5, 0.2), (3, 0.4, 0.0, 1.0)]))
    assert WorstCandidates.among([worst, other]).fresh.tolist() == [0.3, 0.2]
    assert np.array_equal(WorstCandidates.among([other, worst]).fresh, WorstCandidates.among([worst, other]).fresh)


def staged(rows, stages):
    return RandomizedResult.of(table(rows).append_column("stage", pa.array(stages)))


def test_an_error_is_no_verdict_but_leaves_the_sample_open():
    error = (None, 0.0, None)
    rows = [(1, 0.1, 1.0, 0.1), (2, 0.0, 1.0, 0.2), (1, *error), (2, 0.5, 0.0, 0.6)]
    told = staged(rows, ["clean", "clean", "pgd/true", "pgd/true"]).accuracy()
    assert (told.mean, told.open, told.unknown) == (pytest.approx(0.65), 1, False)  # at most (0.9 + 0.4) / 2
    assert told.interval[0] == 0.0  # with the open one wrong no whole image is left


def test_an_error_cannot_make_worse_what_every_draw_got_wrong():
    rows = [(1, 0.0, 1.0, 0.0), (1, 1.0, -1.0, 1.0), (1, None, 0.0, None)]
    told = staged(rows, ["clean", "pgd/true", "square/true"]).accuracy()
    assert (told.mean, told.open) == (0.0, 0)


def test_errors_alone_say_nothing():
    rows = [(1, 0.0, 1.0, 0.1), (2, 1.0, -1.0, 1.0), (1, None, 0.0, None), (2, None, 0.0, None)]
    found = staged(rows, ["clean", "clean", "pgd/true", "pgd/true"])
    assert found.accuracy().unknown
    (line,) = unranked_because(SimpleNamespace(rule="expected", draws=100), found)
    assert "each sample that was attacked ended without an answer" in line
    assert not RandomizedResult(found.clean, found.clean, found.clean).accuracy().unknown


def test_a_deterministic_defense_has_no_shares_and_no_unranked_because():
    assert WorstCandidates.of(pa.table({"sample": [1], "margin": [0.5]})) is None
    assert list(unranked_because(SimpleNamespace(rule="", draws=1), None)) == []


@pytest.mark.parametrize(("rule", "words"), [("expected", "65.0 % right"), ("fixed", "known to the attacker")])
def test_a_randomized_defense_is_told_why_it_has_no_rank(rule, words):
    worst = WorstCandidates.of(table([(1, 0.5, 0.0, 0.3), (2, 0.5, 0.0, 0.4)]))
    (line,) = unranked_because(SimpleNamespace(rule=rule, draws=100), RandomizedResult(worst, worst, worst))
    assert words in line


def test_an_exact_expectation_has_no_draws():
    worst = WorstCandidates.of(table([(1, 0.5, 0.0, 0.5)]))
    (line,) = unranked_because(
        SimpleNamespace(rule="expected", draws=0, manifest={}), RandomizedResult(worst, worst, worst)
    )
    assert "exact over the members, nothing drawn" in line


def test_the_true_head_is_told_apart_from_all():
    rows = table([(1, 0.0, 1.0, 0.1), (1, 0.4, 0.5, 0.3), (1, 0.9, 0.1, 0.8), (2, 0.0, 1.0, 0.0), (2, 0.2, 0.9, 0.2)])
    stages = ["clean", "pgd/true", "pgd/mean", "clean", "pgd/true"]
    found = RandomizedResult.of(rows.append_column("stage", pa.array(stages)))
    shares = {name: getattr(found, name).fresh.tolist() for name in ("clean", "true", "all")}
    assert shares == {"clean": [0.1, 0.0], "true": [0.3, 0.2], "all": [0.8, 0.2]}
    assert found.all.head.tolist() == ["mean", "true"]


def test_a_mixture_tells_its_members_and_what_they_could_give():
    columns = {"sample": [1, 1, 2, 3], "wrong_share": [0.0, 0.5, 0.5, 0.0], "margin": [1.0, 0.0, 0.0, 1.0]}
    rows = pa.table(columns | {"fresh_share": columns["wrong_share"], "fooled": [2, 1, 1, 0]})
    worst = WorstCandidates.of(rows)
    assert worst.fooled.tolist() == [3, 1, 0]
    assert WorstCandidates.among([worst, worst]).fooled.tolist() == [3, 1, 0]
    assert WorstCandidates.of(pa.table(rows.to_pydict() | {"fooled": [2, None, 1, 0]})).fooled.tolist() == [2, 1, 0]
    run = SimpleNamespace(rule="expected", draws=0, manifest={"members": [["member_a", 0.5], ["member_b", 0.5]]})
    (line,) = unranked_because(run, RandomizedResult(worst, worst, worst))
    assert "66.7 % right on the worst candidates" in line
    assert line.endswith("; its members alone: a 33.3, b 66.7; with the best probabilities 66.7 to 66.7")
