"""Lines above and below sigmoid and tanh, exact bounds of one neuron, and points of balls against what is proven."""

import pytest
import torch
from torch import nn

from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.certifier import Work
from gauntlet.certification.crown.curves import CURVES
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import METHODS, prove
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain
from tests.certification.crown.conftest import Pixels, attacked, effort, images, margins, network_of, seeded

LAYERS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@pytest.mark.parametrize("name", list(CURVES))
def test_lines_hold_on_their_intervals_and_touch(name):
    curve, rng = CURVES[name], torch.Generator().manual_seed(0)
    ends = (
        12 * torch.rand(4000, 2, generator=rng, dtype=torch.float64) ** 2 * (2 * torch.rand(4000, 2, generator=rng) - 1)
    )
    ends[:50] = ends[:50, :1]  # points
    low, high = ends.amin(1), ends.amax(1)
    z = low + (high - low) * torch.linspace(0, 1, 301, dtype=torch.float64)[:, None]
    (up, over), (down, under) = curve.above(low, high), curve.below(low, high)
    above, below = up * z + over - curve.at(z), curve.at(z) - down * z - under
    assert (above >= 0).all()
    assert (below >= 0).all()
    assert (up >= 0).all()
    assert (down >= 0).all()
    for gap in (above, below):  # no line could be moved closer
        assert float(gap.amin(0).max()) < 1e-4 * 12
    crossing = (low < -0.5) & (high > 0.5)
    assert float((above.amax(0) / (curve.at(high) - curve.at(low)))[crossing].max()) < 1.0


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_neuron_is_bounded_by_its_ends(name, norm):
    """A function that rises takes its least and largest value where its input does."""
    layer = nn.Linear(8, 1)
    module = seeded(nn.Sequential(nn.Flatten(), layer, LAYERS[name](), nn.Linear(1, 2)))
    x, eps = 0.3 + 0.4 * images(5, (2, 2, 2)), 0.1
    y = module(x).argmax(1)
    z, weight = layer(x.flatten(1)).double().squeeze(1), layer.weight.double()
    spread = eps * (weight.abs().sum() if norm == "linf" else weight.norm())
    curve, last = CURVES[name].at, module[3]
    ends = torch.stack([margins(last.double()(curve(z + s * spread)[:, None]), y).squeeze(1) for s in (-1, 1)])
    last.float()
    found = prove(network_of(module, (2, 2, 2)), legal(Threat(norm, eps), x), y, effort("ibp")).margins.squeeze(1)
    torch.testing.assert_close(found, ends.amin(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", list(LAYERS))
def test_no_image_does_worse(name, norm):
    layer = LAYERS[name]
    module = seeded(
        nn.Sequential(
            Pixels(), nn.Conv2d(2, 4, 3, 2, 1), layer(), nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), layer(),
            nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3),
        )
    )  # fmt: skip
    for layers in (module[1], module[3]):
        layers.weight.mul_(3)  # so that both ends of the curves are reached
    x = images(4, (2, 8, 8))
    y = module(x).argmax(1)
    made = network_of(module, (2, 8, 8))
    for eps in (0.003, 0.05):
        threat = Threat(norm, eps if norm == "linf" else 4 * eps)
        least = margins(module(x), y)
        for z in attacked(module, x, y, threat):
            assert threat.contains(z, x).all()
            least = least.minimum(margins(module(z), y))
        found = [prove(made, legal(threat, x), y, effort(m, steps=4)).margins for m in METHODS]
        for each in found:
            assert (each <= least).all()
            assert each.isfinite().all()
        assert (found[2] > found[0]).any()


def test_branch_and_bound_names_the_curve():
    module = seeded(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh()))
    x, y = images(2, (1, 2, 2)), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UserError, match=r"layer 2 \(Tanh\) is a tanh; take certifier=crown"):
        BranchAndBound()(
            Victim(plain(module), (module,)),
            x,
            y,
            threat=Threat("linf", 0.1),
            rng=Rng(0, torch.arange(2), "c"),
            work=Work(),
        )
