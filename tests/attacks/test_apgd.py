import pytest
import torch

from gauntlet.attacks import losses
from gauntlet.attacks.apgd import APGD
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


def test_the_checks_of_a_hundred_steps():
    assert list(APGD(steps=100).checkpoints()) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(APGD(steps=100).checkpoints().values()) == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_few_steps_have_checks_inside(steps):
    assert all(0 < at <= steps for at in APGD(steps=steps).checkpoints())


def test_the_cost_of_a_survivor(case):
    tiny = Threat("linf", 1e-6)
    _, counts = case.attack(APGD(steps=100), tiny)
    assert counts.forwards.tolist() == [101] * len(case.ids)
    assert counts.backwards.tolist() == [101] * len(case.ids)
    _, counts = case.attack(APGD(steps=100, loss="margin", targets=9), tiny)
    assert counts.forwards.tolist() == [4 * 101 + 1] * len(case.ids)  # there are four other classes


@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("targeted", [False, True])
def test_values_rise_along_their_cotangents(name, targeted):
    loss = losses.scored(name)
    z = 3 * Rng(0, torch.arange(100), "z").normal((10,), dtype=torch.float64)
    y = z.argmax(1)
    target = (y + 3) % 10 if targeted else None
    step = 1e-6 * loss.cotangent(z, y, target)
    assert (loss.value(z + step, y, target) > loss.value(z, y, target)).all()


def test_values_do_not_saturate():
    y = torch.tensor([0, 0])
    z = torch.tensor([[300.0, 0.0, -1.0, -2.0], [301.0, 0.0, -1.0, -2.0]])
    for name in ("ce", "margin"):
        low, high = losses.scored(name).value(z, y, None).tolist()
        assert low > high


@pytest.mark.parametrize("knobs", [{"steps": 0}, {"loss": "pm"}, {"restarts": 0}, {"targets": -1}, {"rho": 1.0}])
def test_bad_knobs(knobs):
    with pytest.raises(UserError):
        APGD(**knobs)


def test_it_finds_at_least_what_as_many_plain_steps_find(make_case):
    from gauntlet.attacks.pgd import PGD

    case, threat = make_case(), Threat("linf", 0.06)
    auto = case.broken(case.attack(APGD(steps=40), threat)[0]).sum()
    plain = case.broken(case.attack(PGD(steps=40), threat)[0]).sum()
    assert auto >= plain - 1
