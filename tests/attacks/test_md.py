import pytest
import torch

from gauntlet.attacks.losses import margin, rival_logit, true_logit
from gauntlet.attacks.md import MD, _away
from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat


def test_the_plan():
    plan = MD().plan(true_logit)
    assert [step.loss for step in plan] == [_away] + [true_logit] * 24 + [margin] * 25
    expected = {0: 1.9921, 1: 2.0, 13: 1.0628, 24: 0.0314, 25: 0.0079, 26: 2.0, 38: 1.0628, 49: 0.0314}
    for step, length in expected.items():
        assert plan[step].length == pytest.approx(length, abs=1e-4), step


def test_cotangents_are_the_logits():
    z, y = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1])
    assert true_logit(z, y).tolist() == [[0, -1, 0]]
    assert _away(z, y).tolist() == [[0, 1, 0]]
    assert rival_logit(z, y).tolist() == [[0, 0, 1]]
    assert rival_logit(z, y, torch.tensor([0])).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("knobs", "forwards", "backwards"),
    [
        ({}, 2 * 51, 2 * 50),
        ({"targets": 9}, 1 + 4 * 2 * 51, 4 * 2 * 50),  # five classes
        ({"diversify": 2}, 1 + 2 * 52, 2 * 50),
        ({"diversify": 2, "targets": 3, "restarts": 2}, 1 + 2 * 3 * 2 * 52, 2 * 3 * 2 * 50),
    ],
)
def test_the_cost_of_a_survivor(knobs, forwards, backwards, case):
    _, counts = case.attack(MD(**knobs), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [forwards] * len(case.ids)
    assert counts.backwards.tolist() == [backwards] * len(case.ids)


def test_diversification_keeps_the_contract(make_case):
    case, attack, threat = make_case(dtype=torch.float64), MD(steps=10, diversify=2), Threat("linf", 0.15)
    whole, counts = case.attack(attack, threat)
    assert threat.contains(whole, case.x).all()
    assert case.broken(whole).any()
    assert not case.broken(whole).all()
    for index in torch.arange(len(case.ids)).split(7):
        part, some = case.attack(attack, threat, index)
        assert torch.allclose(part, whole[index], rtol=0, atol=1e-9)
        assert torch.equal(some.forwards, counts.forwards[index])


@pytest.mark.parametrize(
    "knobs", [{"steps": 3}, {"steps": 0}, {"restarts": 0}, {"targets": -1}, {"diversify": 26}, {"diversify": -1}]
)
def test_bad_knobs(knobs):
    with pytest.raises(UserError, match=f"attack.{next(iter(knobs))}"):
        MD(**knobs)
