"""Ties, and scores that are no numbers: neither speaks for the defense."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gauntlet.attacks.losses import margins
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import decided, misclassified, relative_difference, votes
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "label", "said"),
    [
        ([1.0, 2.0, 0.0], 1, 1),
        ([1.0, 2.0, 0.0], 0, 1),
        ([2.0, 2.0, 0.0], 0, 1),
        ([2.0, 2.0, 0.0], 1, 0),
        ([2.0, 2.0, 0.0], 2, 0),
        ([0.0, 0.0, 0.0], 0, 1),
        ([INF, INF, 0.0], 0, 1),
        ([INF, 1.0, 0.0], 0, 0),
        ([-INF, -INF, -INF], 0, 1),
        ([-INF, -INF, -INF], 2, 0),
    ],
)
def test_a_tie_is_never_the_label(scores, label, said):
    assert decided(torch.tensor([scores]), torch.tensor([label])).tolist() == [said]
    both = decided(torch.tensor([[scores], [scores]]), torch.tensor([label]))  # of two members
    assert both.tolist() == [[said], [said]]


@pytest.mark.parametrize("scores", [[NAN, NAN, NAN], [NAN, 1.0, 0.0], [1.0, NAN, 0.0]])
def test_nan_is_never_the_label(scores):
    assert decided(torch.tensor([scores]), torch.tensor([0])).tolist() != [0]


@given(st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4, unique=True), min_size=1, max_size=5))
def test_without_ties_it_is_the_largest_score(rows):
    scores = torch.tensor(rows).float()
    for label in range(4):
        assert torch.equal(decided(scores, torch.full((len(rows),), label)), scores.argmax(1))


@given(
    st.lists(
        st.lists(st.sampled_from([-INF, -1.0, 0.0, 1.0, INF, NAN]), min_size=3, max_size=3), min_size=1, max_size=9
    )
)
def test_what_is_misclassified_is_not_decided_for_the_label(rows):
    scores = torch.tensor(rows)
    for label in range(3):
        y = torch.full((len(rows),), label)
        assert torch.equal(misclassified(scores, y), decided(scores, y) != y)
        assert torch.equal(misclassified(scores[None], y), decided(scores[None], y) != y)


@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from([-INF, INF, NAN, 1e-45, 0.0]), st.floats(width=32)), min_size=3, max_size=3),
        min_size=1,
        max_size=9,
    )
)
def test_a_margin_tells_what_is_misclassified(rows):
    scores, y = torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long)
    ids = torch.arange(len(rows))
    head = Head("true", lambda x, rng: scores, exact=True)
    door = CountedHead(head, head.forward, Counts.of(ids))
    said = door.broken(scores, scores, y, Rng(0, ids), margin=margins(scores, y))
    assert torch.equal(said, misclassified(scores, y))


def test_a_copy_that_is_undecided_votes_for_no_class():
    assert votes(torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_vote_that_is_no_number_is_refused(value):
    with pytest.raises(UserError, match="not finite for 1 of 2 noisy copies"):
        votes(torch.tensor([[0.0, 1.0], [value, 0.0]]))


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_a_difference_is_a_share_of_the_spread_whatever_the_offset(offset):
    wanted = torch.tensor([[1.0, 3.0, -1.0], [0.0, 8.0, 4.0]], dtype=torch.float64) + offset
    found = wanted + torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert relative_difference(found, wanted).tolist() == pytest.approx([0.25, 0.0], rel=1e-6)


def test_rounding_under_an_offset_is_no_difference_and_a_wrong_score_is():
    wanted = torch.tensor([[1e5, 1e5 + 4.0]])
    assert relative_difference(wanted + 0.0078125, wanted).tolist() == [0.0]
    assert relative_difference(wanted + 1.0, wanted) > 0.2
    assert relative_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])) > 1e300
    assert relative_difference(torch.tensor([[NAN, 2.0]]), torch.tensor([[1.0, 3.0]])).isnan()
