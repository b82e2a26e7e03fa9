"""On a linear network the best attack is known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.fgsm import FGSM
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.md import MD
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.pma import PMA
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


class Linear(nn.Module):
    """Two classes; the margin at mid-grey is `offset`."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.w = Rng(1, torch.arange(1), "w").normal((12, 2), dtype=torch.float64)[0]
        self.b = torch.tensor([offset, 0.0], dtype=torch.float64)

    def forward(self, x):
        return (x - 0.5).flatten(1).double() @ self.w + self.b


def attacked(attack, norm, eps, offset):
    network = Linear(offset)
    x, y, ids = torch.full((3, 3, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long), torch.arange(3)
    victim = Victim(plain(network), (network,))
    head = CountedHead(victim.heads[0], victim.predict, Counts.of(ids))
    z = attack(head, x, y, threat=Threat(norm, eps), rng=Rng(0, ids, "a"))
    scores = network(z)
    return (scores[:, 0] - scores[:, 1]).tolist()


def drop(norm):
    """How much the margin falls per unit of eps, away from the box."""
    network = Linear(0.0)
    return float((network.w[:, 0] - network.w[:, 1]).norm(p=DUAL[norm]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "pm"])
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=150)], ids=lambda a: type(a).__name__)
def test_the_margin_falls_by_eps_times_the_dual_norm(attack, loss, norm):
    eps, offset = 0.1, 100.0  # too far to be broken, so the attack goes to the end
    expected = offset - eps * drop(norm)
    assert attacked(replace(attack, loss=loss), norm, eps, offset) == pytest.approx([expected] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "attack",
    [APGD(loss="margin"), PGD(loss="margin", steps=100), PMA(), MD(steps=100), Gauntlet()],
    ids=lambda a: type(a).__name__,
)
def test_sparse_steps_reach_the_best_entry(attack):
    eps, offset = 0.3, 100.0
    expected = offset - eps * drop("l1")
    found = attacked(attack, "l1", eps, offset)
    assert found == pytest.approx([expected] * 3, abs=0.1 * eps * drop("l1"))  # the last steps are a tenth of eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("schedule", ["released", "paper"])
def test_pma_reaches_the_optimum(norm, schedule):
    eps, offset = 0.1, 100.0
    found = attacked(PMA(steps=20, schedule=schedule), norm, eps, offset)
    assert found == pytest.approx([offset - eps * drop(norm)] * 3, rel=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "attack", [FGSM(loss="margin"), PGD(steps=150, loss="margin"), PMA(steps=20)], ids=lambda a: type(a).__name__
)
def test_the_boundary_is_where_theory_puts_it(attack, norm):
    radius = 0.1
    offset = radius * drop(norm)
    assert all(margin < 0 for margin in attacked(attack, norm, radius * 1.001, offset))
    assert all(margin > 0 for margin in attacked(attack, norm, radius * 0.999, offset))
