"""MALT where the distances are known."""

import math

import pytest
import torch
from torch import nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.malt import MALT
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


class Slanted(nn.Module):
    """Four classes: the second best by its logit is far away, and in the opposite direction."""

    def __init__(self) -> None:
        super().__init__()
        steep = torch.tensor([0.0, -0.5, 10.0, 1.0], dtype=torch.float64)
        weight = torch.ones(1, 16, dtype=torch.float64).cumsum(1) / 16
        self.weight = nn.Parameter((weight.T * steep), requires_grad=False)
        self.bias = torch.tensor([0.0, -0.1, -0.4, -1.0], dtype=torch.float64)

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.weight + self.bias


def asked(norm, candidates=9):
    network, ids = Slanted(), torch.arange(3)
    victim = Victim(plain(network), (network,))
    counts = Counts.of(ids)
    head = CountedHead(victim.heads[0], victim.predict, counts)
    x, y = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    return network, head, counts, x, y, nearest_classes(head, x, y, candidates, norm, Rng(0, ids, "a"))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_classes_are_ordered_by_the_distance_of_their_boundary(norm):
    network, _, counts, _, _, (order, away) = asked(norm)
    length = network.weight.norm(DUAL[norm], dim=0)  # of z_t - z_y: the label's logit is constant
    exact = -network.bias[1:] / length[1:]
    assert order[0].tolist() == (1 + exact.argsort()).tolist() == [2, 1, 3]
    assert away[0].tolist() == pytest.approx(exact.sort().values.tolist())
    assert counts.forwards.tolist() == [1] * 3
    assert counts.backwards.tolist() == [3] * 3
    assert asked(norm, 1)[5][0].tolist() == [[1]] * 3  # one candidate: the best by its logit


def test_one_target_suffices_where_the_logits_name_another():
    _, head, _, x, y, (_, away) = asked("linf")
    threat, rng = Threat("linf", 1.2 * float(away[0, 0])), Rng(0, torch.arange(3), "a")

    def found(attack):
        return (head.head.forward(attack(head, x, y, threat=threat, rng=rng), rng).argmax(1) != y).all()

    assert found(MALT(targets=1, steps=10, loss="margin"))
    assert not found(MALT(targets=1, candidates=1, steps=10, loss="margin"))
    assert MALT(targets=1).fewest_classes == 4
    assert MALT(loss="margin").fewest_classes == APGD(loss="margin").fewest_classes == 2


def test_the_cost_of_a_survivor(case):
    _, counts = case.attack(MALT(targets=2, steps=10), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [1 + 2 * 11] * len(case.ids)
    assert counts.backwards.tolist() == [4 + 2 * 11] * len(case.ids)  # there are four other classes
