"""AAER: its terms by hand, and what it is without abnormal examples."""

import pytest
import torch
import torch.nn.functional as F

from gauntlet.errors import UserError
from gauntlet.training.objectives.abnormal_examples import AAER

BEFORE = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
AFTER = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
"""The loss of the label 0 falls in the first row, rises in the second and third, and stays in the fourth."""


def test_the_penalty_is_that_of_the_formula():
    y = torch.zeros(4, dtype=torch.int64)
    before, after = BEFORE.clone().requires_grad_(), AFTER.clone().requires_grad_()
    found = AAER(eps=0.1, ce_weight=3.0, logit_weight=0.5).penalty(before, after, y)
    fall = F.cross_entropy(BEFORE[:1], y[:1]) - F.cross_entropy(AFTER[:1], y[:1])
    assert torch.allclose(
        found, 0.25 * 3.0 * fall
    )  # the first has moved by 1, the others by (4 + 4 + 0) / 3: no excess
    found.backward()
    assert before.grad is None
    assert (after.grad[1:] == 0).all()
    assert (after.grad[0] != 0).any()


def test_abnormal_examples_that_move_further_than_the_others_pay_for_it():
    y, further = torch.zeros(4, dtype=torch.int64), AFTER * torch.tensor([[3.0], [1.0], [1.0], [1.0]])
    bare, whole = (AAER(eps=0.1, logit_weight=w).penalty(BEFORE, further, y) for w in (0.0, 2.0))
    assert torch.allclose(whole - bare, torch.tensor(0.25 * 2.0 * (9 - 8 / 3)))


@pytest.mark.parametrize("label", [0, 1])
def test_all_or_none_abnormal_cost_nothing(label):
    y = torch.full((4,), label)
    after = BEFORE + torch.tensor([1.0, 0.0])  # the loss of 0 falls everywhere, that of 1 rises
    assert AAER(eps=0.1).penalty(BEFORE, after, y) == 0


def test_without_weights_it_is_cross_entropy_on_the_examples_of_one_step(make_net, batch, rng):
    objective = AAER(eps=0.1, ce_weight=0.0, logit_weight=0.0)
    net = make_net(steps=5).eval()
    packed = objective.examples(net, batch.x, batch.y, rng)
    z = packed[:, :64].view_as(batch.x)
    assert ((z - batch.x).abs() <= 0.1 + 1e-6).all()
    assert ((z >= 0) & (z <= 1)).all()
    expected = F.cross_entropy(net(z), batch.y, reduction="none")
    assert torch.allclose(objective.losses(net, batch.x, batch.y, packed, rng), expected)
    free = AAER(eps=0.1, start=2.0, step_size=1.0, projected=False).examples(net, batch.x, batch.y, rng)
    assert 0.1 < (free[:, :64].view_as(batch.x) - batch.x).abs().max() <= 0.3 + 1e-6
    part = objective.examples(net, batch.x[:3], batch.y[:3], rng.select(torch.arange(3)))
    assert torch.allclose(part, packed[:3], atol=1e-5)
    assert all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize(
    "options", [{"eps": -1}, {"eps": "unbounded"}, {"start": -1.0}, {"step_size": 0.0}, {"ce_weight": -1.0}]
)
def test_unfit_options_are_refused(options):
    with pytest.raises(UserError):
        AAER(**{"eps": 0.1, **options})
