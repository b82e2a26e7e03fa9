import pytest
import torch
from torch import nn

from gauntlet.attacks.fab import FAB
from gauntlet.attacks.linearized_boundary import linearize_boundary, nearest_boundary
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = Rng(3, torch.arange(1), "w").normal((12, 5), dtype=torch.float64)[0]

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.w


@pytest.fixture
def head():
    network, ids = Linear(), torch.arange(40)
    victim = Victim(plain(network), (network,))
    return CountedHead(victim.heads[0], victim.predict, Counts.of(ids))


@pytest.fixture
def x():
    return Rng(0, torch.arange(40), "x").uniform((3, 2, 2), 0.3, 0.7, dtype=torch.float64)


def test_a_plane_is_half_the_difference_of_two_logits(head, x):
    w = Linear().w
    y, target = torch.zeros(40, dtype=torch.long), torch.full((40,), 2)
    plane = linearize_boundary(head, x, y, target, Rng(0, torch.arange(40)))
    assert torch.allclose(plane.gradient.flatten(1), ((w[:, 2] - w[:, 0]) / 2).expand(40, -1))
    assert torch.allclose(plane.gap, (x - 0.5).flatten(1) @ (w[:, 2] - w[:, 0]) / 2)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_the_nearest_plane_is_nearest_in_the_norm(head, x, norm, dual):
    w, logits = Linear().w, Linear()(x)
    y = logits.argmax(1)
    gaps = logits.gather(1, y[:, None]) - logits
    away = (gaps / (w.T[y][:, None] - w.T[None]).norm(dual, dim=2)).scatter(1, y[:, None], torch.inf)
    target = away.argmin(1)
    plane = nearest_boundary(head, x, y, norm, Rng(0, torch.arange(40)))
    chosen = linearize_boundary(head, x, y, target, Rng(0, torch.arange(40)))
    assert torch.allclose(plane.gradient, chosen.gradient)
    assert torch.allclose(plane.gap, chosen.gap)
    assert len(set(target.tolist())) > 2


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_untargeted_fab_finds_every_image_beyond_its_least_distance(head, x, norm, dual):
    """On a linear model away from the box the least distance is known: FAB succeeds a little above it, never below."""
    w, logits = Linear().w, Linear()(x)
    y = logits.argmax(1)
    gaps = logits.gather(1, y[:, None]) - logits
    away = (gaps / (w.T[y][:, None] - w.T[None]).norm(dual, dim=2)).scatter(1, y[:, None], torch.inf).amin(1)
    near = away < 0.15
    assert near.sum() > 5
    for share, expected in ((1.1, near), (0.9, torch.zeros_like(near))):
        factors = torch.where(near, share * away, 1e-9)
        threat = Threat(norm, 1.0).scaled(factors)
        z = FAB(steps=20, targets=0)(head, x, y, threat=threat, rng=Rng(0, torch.arange(40)))
        assert torch.equal(Linear()(z).argmax(1) != y, expected)


def test_the_cost_of_a_survivor(case):
    """One forward and a backward for each of the four other classes, and one forward to ask."""
    _, counts = case.attack(FAB(steps=10, targets=0, restarts=3), Threat("linf", 1e-6))
    assert counts.forwards.tolist() == [60] * len(case.ids)
    assert counts.backwards.tolist() == [120] * len(case.ids)
