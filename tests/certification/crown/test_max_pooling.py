"""Bounds through max pooling: exact where a formula is at hand, and below what images do."""

import pytest
import torch
from torch import nn

from gauntlet.certification.crown.branch_and_bound import Budget
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import prove
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import attacked, effort, images, margins, network_of, seeded
from tests.certification.crown.test_branch_and_bound import searched


class Largest(nn.Module):
    """The largest pixel against a constant."""

    def forward(self, x):
        most = nn.functional.max_pool2d(x, 2).flatten(1)
        return nn.functional.linear(most, torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.4]))


def test_the_largest_pixel_is_at_least_the_largest_lower_bound():
    x, eps = torch.tensor([[[[0.6, 0.55], [0.5, 0.58]]]]), 0.15
    y, threat = torch.zeros(1, dtype=torch.int64), Threat("linf", eps)
    found = searched(Largest(), x, y, threat, Budget(60, 20, 3, 4), least=0.04)
    assert found.why == "proven"
    assert 0.04 < float(found.bounds) <= 0.6 - eps - 0.4 + 1e-6
    for method in ("ibp", "crown", "alpha_crown"):
        proof = prove(network_of(Largest(), (1, 2, 2)), legal(threat, x), y, effort(method))
        assert float(proof.margins) <= 0.6 - eps - 0.4 + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_no_point_falls_below_what_is_proven(seed):
    pool = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.AdaptiveMaxPool2d(2)][seed % 3]
    front = [nn.Conv2d(2, 3, 3), nn.ReLU(), pool, nn.Flatten()]
    width = nn.Sequential(*front)(torch.zeros(1, 2, 8, 8)).shape[1]
    module = seeded(nn.Sequential(*front, nn.Linear(width, 3)), seed)
    x, threat = images(3, (2, 8, 8), seed), Threat("linf", 0.08) if seed % 2 else Threat("l2", 0.3)
    y = module(x).argmax(1)
    with torch.enable_grad():
        points = [z for z in attacked(module, x, y, threat, 2, 5) if threat.contains(z, x).all()]
    least = torch.stack([margins(module(z), y) for z in (x, *points)]).amin(0)
    for method in ("ibp", "crown", "alpha_crown"):
        found = prove(network_of(module, (2, 8, 8)), legal(threat, x), y, effort(method, steps=4)).margins
        assert (found <= least).all()
