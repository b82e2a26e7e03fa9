"""A linear model says where the best patch lies and what it reaches."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from gauntlet.attacks.patch_pgd import PatchPGD
from gauntlet.errors import UserError
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.patch import PatchThreat
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain

IDS = torch.arange(40)


class Linear(nn.Module):
    """Two classes, whose margin is linear in the pixels."""

    def __init__(self):
        super().__init__()
        self.weight = Rng(3, torch.arange(1), "w").normal((1, 6, 7))[0]

    def forward(self, x):
        margin = ((x - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([margin, -margin], 1) / 2


def attacked(attack, threat, x, y, network):
    head = CountedHead(Head("true", plain(network)), plain(network), Counts.of(IDS))
    return attack(head, x, y, threat=threat, rng=Rng(0, IDS, "attack")), head.counts


@pytest.mark.parametrize("knobs", [{}, {"search": "gradient"}, {"queries": 6}])
def test_a_linear_model_falls_exactly_where_its_best_window_reaches_the_boundary(knobs):
    network, threat = Linear(), PatchThreat(eps=2, aspect=1.5)
    away = torch.linspace(0, 0.25, len(IDS))[:, None, None, None]  # from the boundary
    x = Rng(0, IDS, "x").uniform((1, 6, 7), 0.25, 0.75) + away * network.weight.sign()
    y = network(x).argmax(1)
    sign = (1 - 2 * y.float())[:, None, None, None]  # the margin of the label is sign times that of class 0
    slope = sign * network.weight
    gain = torch.maximum(slope * x, slope * (x - 1))
    best = 6 * functional.avg_pool2d(gain, (3, 2), 1).flatten(1).amax(1)
    margin = (network(x)[:, 0] - network(x)[:, 1]).abs()
    z, counts = attacked(PatchPGD(steps=12, locations=1, **knobs), threat, x, y, network)
    assert threat.contains(z, x).all()
    broken, wanted = network(z).argmax(1) != y, best > margin
    assert 5 < wanted.sum() < 35
    assert torch.equal(broken, wanted) or ("queries" in knobs and not (broken & ~wanted).any())
    assert (counts.backwards[~broken] == 13).all()


def test_several_patches_reach_more_than_one_and_a_given_place_less():
    network = Linear()
    x = Rng(0, IDS, "x").uniform((1, 6, 7))
    y = network(x).argmax(1)
    threats = [PatchThreat(eps=1, row=0, column=0), *(PatchThreat(eps=1, count=count) for count in (1, 2, 3))]
    found = [
        network(attacked(PatchPGD(steps=12, search="gradient"), each, x, y, network)[0]).argmax(1) != y
        for each in threats
    ]
    counts = [int(each.sum()) for each in found]
    assert counts == sorted(counts)
    assert counts[-1] > counts[1] > counts[0]
    assert not (found[0] & ~found[1]).any()


def test_the_nearest_class_has_no_meaning_under_patches_and_is_refused_before_a_run():
    threat = PatchThreat(eps=2, goal="targeted", target="nearest")
    network = Linear()
    with pytest.raises(UserError, match="is defined for linf, l2, l1, not for patch"):
        Evaluation(Victim(plain(network), (network,)), ("patch_pgd", PatchPGD()), threat, 2)
