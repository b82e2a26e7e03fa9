"""CrossMax: golden values, what leaves the scores as they are, and the break by the mean of the logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gauntlet.attacks.pgd import PGD
from gauntlet.data.dataset import Batch
from gauntlet.defenses.crossmax import CrossMax, columns, crossmax, rows
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

Z = torch.tensor([[3.0, 1, 0, 2], [2, 4, 0, 1], [5, 0, 1, 1]])[:, None]


def test_golden_values():
    assert rows(Z)[:, 0].tolist() == [[0, -2, -3, -1], [-2, 0, -4, -3], [0, -5, -4, -4]]
    assert columns(Z)[:, 0].tolist() == [[0, -2, 0, 0], [-2, 0, -1, -2], [0, -5, -1, -3]]
    assert crossmax(Z, 2)[0].tolist() == [0, -2, -1, -2]
    assert crossmax(Z, 3)[0].tolist() == [-2, -5, -1, -3]
    assert torch.equal(crossmax(Z), crossmax(Z, 2))  # the median of three
    assert torch.equal(crossmax(Z[:2]), crossmax(Z[:2], 2) / 2)  # of two: the mean of the best bid, 0, and the other


def draw(seed, *shape):
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.integers(2, 10), st.data())
def test_what_leaves_the_scores_as_they_are(seed, members, classes, data):
    k = data.draw(st.none() | st.integers(2, members))
    logits = draw(seed, members, 3, classes)
    scores = crossmax(logits, k)
    assert (scores <= 0).all()
    shift = draw(seed + 1, members, 3, 1)
    torch.testing.assert_close(crossmax(logits + shift, k), scores)
    order = torch.randperm(members, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(crossmax(logits[order], k), scores)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(crossmax(logits[:, :, order], k), scores[:, order])


def test_one_loud_predictor_moves_the_mean_and_not_crossmax():
    logits = draw(0, 8, 400, 10)
    loud = logits.clone()
    loud[0] = 1000 * draw(1, 400, 10)
    assert (loud.mean(0).argmax(1) != logits.mean(0).argmax(1)).double().mean() > 0.8
    calm = logits + 30 * torch.nn.functional.one_hot(torch.arange(400) % 10, 10)  # predictors that agree
    loud = calm.clone()
    loud[0] = 1000 * draw(1, 400, 10)
    assert torch.equal(crossmax(loud, 3).argmax(1), calm.mean(0).argmax(1))


def test_the_gradient_comes_through_few_of_the_logits():
    logits = draw(2, 8, 200, 10).requires_grad_()
    (gradient,) = torch.autograd.grad((crossmax(logits, 3) * draw(3, 200, 10)).sum(), logits)
    assert 0.1 < (gradient != 0).double().mean() < 0.35


@pytest.mark.parametrize("k", [-1, 0, 1, 4])
def test_a_bid_that_does_not_count_is_refused(k):
    with pytest.raises(UserError, match=rf"defense\.k={k}"):
        crossmax(Z, k)


def test_an_ensemble_of_one_is_refused():
    with pytest.raises(UserError, match="two or more members"):
        crossmax(Z[:1], 1)


PARTS = {"a": None, "b": None, "c": None}


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"members": []}, "ensemble of 0"),
        ({"members": ["a"]}, "ensemble of 1"),
        ({"members": ["a", "d"]}, "d, which is no part"),
        ({"members": ["a", "b", "a"]}, "a twice"),
        ({"members": ["a", "b"], "k": 3}, r"\[2, 2\]"),
    ],
)
def test_bad_knobs(knobs, told):
    with pytest.raises(UserError, match=told):
        CrossMax(parts=PARTS, **knobs)


def test_only_members_are_loaded_and_paid():
    defense = CrossMax(parts=PARTS, members=["c", "a"])
    assert (list(defense.parts), defense.card.forwards) == (["c", "a"], 2.0)


class Linear(nn.Module):
    """Logits of a random linear map of the pixels."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def linear(seed, classes=10, common=0.0):
    """common: share of the weights that all predictors have."""
    same, own = draw(100, classes, 20), draw(seed, classes, 20)
    return Linear((common * same + (1 - common) * own).float(), torch.zeros(classes))


def test_members_of_different_numbers_of_classes_are_refused():
    victim = CrossMax(parts=PARTS, members=["a", "b"]).deploy({"a": linear(0), "b": linear(1, 7)})
    with pytest.raises(UserError, match="a 10, b 7"):
        victim.predict(torch.rand(2, 1, 4, 5), Rng(0, torch.arange(2)))


def test_the_heads_are_declared():
    victim = CrossMax(parts=PARTS, members=["a", "b"]).deploy({"a": linear(0), "b": linear(1)})
    means = ["mean_logits", "mean_rows", "mean_columns", "mean_softmax"]
    assert [head.name for head in victim.heads] == ["true", *means, "member_a", "member_b"]
    x, rng = torch.rand(3, 1, 4, 5), Rng(0, torch.arange(3))
    one, two = (linear(seed)(x) for seed in range(2))
    found = {head.name: head.forward(x, rng) for head in victim.heads}
    torch.testing.assert_close(found["mean_logits"], (one + two) / 2)
    torch.testing.assert_close(found["mean_softmax"].exp(), one.softmax(1) + two.softmax(1))
    torch.testing.assert_close(found["mean_rows"].log_softmax(1), found["mean_logits"].log_softmax(1))
    assert torch.equal(found["member_b"], two)


def test_the_mean_of_the_logits_breaks_what_the_true_head_hides():
    """Eight linear predictors: no masking but that of the maxima and the order."""
    names = [str(number) for number in range(8)]
    models = {name: linear(number, common=0.5) for number, name in enumerate(names)}
    victim = CrossMax(parts=dict.fromkeys(names), members=names, k=3).deploy(models)
    x = torch.rand(100, 1, 4, 5, generator=torch.Generator().manual_seed(5))
    ids = torch.arange(100)
    batch = Batch(ids, x, victim.predict(x, Rng(0, ids)).argmax(1))
    survivors = {}
    for heads in ("true", "declared"):
        run = Evaluation(victim, ("pgd", PGD(steps=40)), Threat("linf", 0.12), 10, heads=heads)
        found = evaluate_chunk(run, batch).rows.to_pandas()
        survivors[heads] = 100 - found[found["broken"]]["sample"].nunique()
    assert survivors["declared"] < survivors["true"] - 20
