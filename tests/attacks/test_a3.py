from itertools import pairwise

import pytest
import torch
from torch import nn

from gauntlet.attacks.a3 import A3, NARROW, WIDE, A3State, lengths, logit_weights, odi_weights, ranks, select_nearest
from gauntlet.attacks.losses import margins
from gauntlet.errors import UserError
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.attacks.conftest import Case, Crooked

TINY = Threat("linf", 1e-6)


def test_the_narrow_stages():
    assert [stage.share for stage in NARROW] == [1, 1, 1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.065, 0.03]
    nominal = [8, 15, 15, 25, 30, 30, 35, 40, 45, 50, 50, 55, 60]
    assert [stage.steps for stage in NARROW] == [*nominal[:3], *(steps + 7 for steps in nominal[3:])]
    assert [stage.odi_steps for stage in NARROW] == [0] + [7] * 12
    assert [stage.restarts for stage in NARROW] == [1] * 10 + [4, 4, 50]


def test_the_wide_stages():
    nominal = [5, 5, 10, 10, 15, 18, 20, 25, 35, 45]
    turns = [10, 15, 15, 10, 10, 10, 10, 10, 10, 10]
    assert WIDE[:3] == NARROW[:3]
    assert [stage.odi_steps for stage in WIDE[3:]] == turns
    assert [stage.steps for stage in WIDE[3:]] == [a + b for a, b in zip(nominal, turns, strict=True)]
    assert [stage.restarts for stage in WIDE[3:]] == [10, 1, 1, 1, 1, 1, 1, 5, 5, 20]
    assert [stage.share for stage in WIDE] == [1.0] * 10 + [0.8, 0.5, 0.5]


def test_the_step_sizes():
    assert lengths(8)[0] == 1
    assert lengths(8)[-1] == pytest.approx(0.1 + 0.9 * 0.1169778, rel=1e-6)  # (1 + cos(7 pi / 9)) / 2
    long = lengths(60)
    assert long[0] == 1
    assert long[-1] == pytest.approx(0.003647, abs=1e-6)  # 0.001 + 0.999 (1 + cos(59 pi / 61)) / 2
    assert all(a > b for a, b in pairwise(long))


def test_due_takes_the_nearest_of_those_that_stand():
    margin = torch.tensor([5.0, 1.0, -3.0, 4.0, 2.0, 3.0])
    broken = torch.tensor([False, False, True, False, False, False])
    assert select_nearest(margin, broken, 0.7, 1).tolist() == [1, 4, 5]
    assert select_nearest(margin, broken, 0.1, 2).tolist() == [1, 4]
    assert select_nearest(margin, broken, 0.1, 100).tolist() == [0, 1, 3, 4, 5]
    assert select_nearest(margin, torch.ones(6, dtype=torch.bool), 1.0, 1).tolist() == []


@pytest.mark.parametrize(
    ("true", "fallen", "expected"),
    [
        (1.0, 1.0, (-0.1, 0.5, 0.8)),
        (1.0, -1.0, (-0.1, 0.5, -0.8)),
        (-1.0, -1.0, (-0.5, 0.1, -0.8)),
        (-1.0, 1.0, (-0.5, 0.1, 0.8)),
        (0.0, 0.0, (-0.5, 0.1, 0.8)),
    ],
)
def test_starts_lean_as_stage_one_taught(true, fallen, expected):
    assert odi_weights(true, fallen, wide=False, final=False) == expected
    assert odi_weights(true, fallen, wide=False, final=True) == (-0.8, 0.1, 0.8)
    assert odi_weights(true, fallen, wide=True, final=False) == (-0.1, 0.5, 0.8)
    assert odi_weights(true, fallen, wide=True, final=True) == (0.0, 0.0, 0.8)


def test_directions_lean_by_a_tenth_of_the_classes():
    y, rival = torch.zeros(500, dtype=torch.long), torch.ones(500, dtype=torch.long)
    rng = Rng(0, torch.arange(500))
    free = logit_weights(rng, 20, y, rival, None)
    assert -1 <= free.min() < -0.95
    assert 0.95 < free.max() < 1
    led = logit_weights(rng, 20, y, rival, odi_weights(-1.0, -1.0, wide=False, final=False))
    assert torch.equal(led[:, 2:], free[:, 2:])
    assert led[:, 1].numpy() == pytest.approx(-1.6)
    assert -1 <= led[:, 0].min() < -0.95
    assert 0.15 < led[:, 0].max() < 0.2
    assert led[:, 0].unique().numel() > 400  # drawn for each sample


@pytest.mark.parametrize(
    ("classes", "early", "late"), [(10, 9, 4), (5, 4, 4), (2, 1, 1), (100, 14, 14), (1000, 20, 20)]
)
def test_ranks(classes, early, late):
    assert (ranks(classes, final=False), ranks(classes, final=True)) == (early, late)


def test_scarce_samples_are_all_attacked_and_oftener():
    attack = A3()
    assert attack.stage(5, wide=False, scarce=True) == (1.0, 37, 7, 11)
    assert attack.stage(12, wide=False, scarce=False) == (0.03, 67, 7, 50)
    assert A3(restarts=10).stage(12, wide=False, scarce=False).restarts == 10
    assert A3(restarts=25).stage(12, wide=True, scarce=False).restarts == 10
    assert A3(extra=3).stage(0, wide=False, scarce=True) == (1.0, 8, 0, 4)


def test_the_cost_of_a_survivor_in_the_first_stages(case):
    _, counts = case.attack(A3(rounds=3), TINY)
    assert counts.backwards.tolist() == [8 + 22 + 22] * len(case.ids)
    # the corner; the end of the ascent; twice the end of the turns and of the ascent
    assert counts.forwards.tolist() == [8 + 22 + 22 + 1 + 1 + 4] * len(case.ids)


def test_the_discarding_follows_the_shares():
    case = Case(Crooked(), count=200)
    _, counts = case.attack(A3(rounds=5, least=0.0), TINY)
    passes = counts.backwards - 52
    assert (passes == 39 + 44).sum() == 120
    assert (passes == 39).sum() == 20
    assert (passes == 0).sum() == 60
    _, counts = case.attack(A3(rounds=5, least=0.65), TINY)
    assert (counts.backwards == 52 + 39 + 44).sum() == 130
    margin, last = margins(case.network(case.x), case.y), counts.backwards == 52 + 39 + 44
    assert margin[last].max() <= margin[~last].min() + 1e-3


class Linear(nn.Module):
    """Class 0 is true; class 1 comes near where pixel 0 falls; nothing else moves."""

    def forward(self, x):
        p = x.flatten(1)[:, 0] - 0.5
        return torch.stack([p + 0.15, -p, torch.full_like(p, -9.0)], 1)


def search_on(network, x, y, threat):
    victim = Victim(plain(network), (network,))
    ids = torch.arange(len(x))
    return A3State(CountedHead(victim.heads[0], victim.predict, Counts.of(ids)), x, y, threat, Rng(0, ids, "a3"))


def test_the_signs_are_learnt_from_those_who_fell():
    x = torch.full((64, 1, 1, 2), 0.5)
    search = search_on(Linear(), x, torch.zeros(64, dtype=torch.long), Threat("linf", 0.1))
    search.best = search.best._replace(broken=torch.arange(64) % 2 == 0, z=x - 0.1)
    weights = Rng(1, torch.arange(64)).uniform((3,), -1, 1)
    weights[:, 0], weights[:, 1] = -weights[:, 0].abs(), weights[:, 1].abs()
    search._learn(torch.arange(64), weights, search.rng)
    assert search.true == pytest.approx(weights[::2, 0].sum().item())
    assert search.fallen == pytest.approx(weights[::2, 1].sum().item())
    assert search.head.counts.forwards.tolist() == [1, 0] * 32
    odi = odi_weights(search.true, search.fallen, wide=False, final=False)
    assert (odi.high, odi.rival) == (0.1, 0.8)  # away from the true class, towards the rival


class Walled(nn.Module):
    """Class 1 wins where all pixels are near the top of the ball: noise does not lead there, a turn often does."""

    def forward(self, x):
        p = x.flatten(1).mean(1) - 0.5
        return torch.stack([torch.zeros_like(p), p - 0.049, -1 - p], 1)


def test_turns_that_fool_many_widen_the_stages(monkeypatch):
    asked = []
    stage = A3.stage

    def spy(self, number, wide, scarce):
        asked.append((number, wide, scarce))
        return stage(self, number, wide, scarce)

    monkeypatch.setattr(A3, "stage", spy)
    monkeypatch.setattr("gauntlet.attacks.a3.lengths", lambda steps: [0.0] * steps)  # only turns can fool
    x = torch.full((64, 1, 1, 256), 0.5)
    search = search_on(Walled(), x, torch.zeros(64, dtype=torch.long), Threat("linf", 0.05))
    A3(rounds=5, restarts=1, extra=0)(search.head, x, search.y, threat=search.threat, rng=search.rng)
    assert asked[:3] == [(0, False, False), (1, False, False), (2, False, False)]
    assert asked[3][1] is True


@pytest.mark.parametrize("knobs", [{"rounds": 0}, {"rounds": 14}, {"restarts": -1}, {"extra": -1}, {"least": 100}])
def test_bad_knobs(knobs):
    with pytest.raises(UserError, match=f"attack.{next(iter(knobs))}"):
        A3(**knobs)
