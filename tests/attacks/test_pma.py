from itertools import pairwise

import pytest
import torch

from gauntlet.attacks import losses
from gauntlet.attacks.pma import MARGIN, PMA, RIVAL, TRUE
from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat


def test_the_released_step_sizes():
    lengths = PMA(steps=100).lengths()
    expected = {
        0: 1.998,
        1: 2.0,
        10: 1.844,
        25: 1.063,
        40: 0.230,
        49: 0.0079,
        50: 0.0020,
        51: 2.0,
        60: 1.844,
        75: 1.063,
        99: 0.0079,
    }
    for step, length in expected.items():
        assert lengths[step] == pytest.approx(length, abs=6e-4), step


def test_the_paper_step_sizes_are_one_cosine():
    lengths = PMA(steps=100, schedule="paper").lengths()
    assert lengths[0] == 2
    assert lengths[50] == pytest.approx(1)
    assert all(a > b for a, b in pairwise(lengths))


def test_the_released_objectives():
    first, second = PMA(steps=10).runs()
    assert [step.loss for step in first] == [losses.true_probability] + [TRUE] * 4 + [MARGIN] * 5
    assert [step.loss for step in second] == [losses.true_probability] + [RIVAL] * 4 + [MARGIN] * 5


def test_the_paper_objectives_take_turns():
    plans = PMA(steps=4, restarts=3, schedule="paper").runs()
    assert [plan[0].loss for plan in plans] == [RIVAL, TRUE, RIVAL]
    assert all(plan[2].loss is MARGIN for plan in plans)


def test_the_cost_of_a_survivor(case):
    _, counts = case.attack(PMA(steps=100), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [202] * len(case.ids)  # 2 (K + 1); the clean prediction is the judge's
    assert counts.backwards.tolist() == [200] * len(case.ids)


@pytest.mark.parametrize("knobs", [{"steps": 3}, {"steps": 0}, {"restarts": 0}, {"schedule": "linear"}])
def test_bad_knobs(knobs):
    with pytest.raises(UserError, match="attack"):
        PMA(**knobs)


def test_broken_samples_leave_at_once(case):
    z, counts = case.attack(PMA(steps=20), Threat("linf", 0.4))
    gone = case.broken(z)
    assert gone.any()
    assert (counts.forwards[gone] <= counts.forwards.max()).all()
    assert torch.unique(counts.forwards[gone]).numel() > 1
