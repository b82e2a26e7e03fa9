"""Random networks, images and balls: no point of a ball, computed as deployed, falls below a proven margin."""

import pytest
import torch
from torch import nn

from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import prove
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import Pixels, Residual, effort, images, margins, network_of, seeded

SHAPE, CLASSES = (2, 8, 8), 4


def drawn(seed):
    """A network of random layers, with weights large enough for open ReLUs."""
    rng = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=rng))]

    layers, channels, size = ([Pixels()] if pick(True, False) else []), 2, 8
    for _ in range(pick(1, 2, 3)):
        wide, kind = pick(2, 3, 4), pick("plain", "strided", "even", "norm", "residual", "grouped", "pooled")
        if kind == "residual":
            stride = pick(1, 2) if wide != channels else 1  # its shortcut is the identity then
            layers.append(Residual(channels, wide, stride))
            size = -(-size // stride)
        elif kind == "pooled" and size % 2 == 0:
            layers += [nn.Conv2d(channels, wide, 3, 1, 1), nn.ReLU(inplace=pick(True, False)), nn.AvgPool2d(2)]
            size //= 2
        elif kind == "even":
            layers += [nn.Conv2d(channels, wide, 2, 1, 1), nn.ReLU()]
            size += 1
        else:
            stride = 2 if kind == "strided" else 1
            groups = channels if kind == "grouped" and wide % channels == 0 else 1
            layers.append(nn.Conv2d(channels, wide, 3, stride, 1, groups=groups))
            layers += [nn.BatchNorm2d(wide)] * (kind == "norm")
            layers.append(nn.ReLU())
            size = -(-size // stride)
        channels = wide
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return seeded(nn.Sequential(*layers), seed), rng


@pytest.mark.parametrize("seed", range(24))
def test_no_point_of_a_random_network_falls_below_what_is_proven(seed):
    module, rng = drawn(seed)
    x = images(3, SHAPE, seed)
    eps = float(torch.rand((), generator=rng)) ** 2 * 0.3 + 1e-4
    threat = Threat("linf", eps) if seed % 3 else Threat("l2", 4 * eps)
    y = module(x).argmax(1)
    points = [x]
    for step in (1.0, 0.5):
        points += [threat.project(x + 9 * eps * torch.randn(x.shape, generator=rng).sign() * step, x) for _ in range(8)]
        points += [threat.project(x + eps * step * torch.randn(x.shape, generator=rng), x) for _ in range(8)]
    for other in range(CLASSES - 1):
        z = x.clone()
        for _ in range(10):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(margins(module(z), y)[:, other].sum(), z)
            z = threat.project(z.detach() - 0.4 * threat.budget(x) * threat.steepest(slope), x)
            points.append(z)
    points = [z.detach() for z in points]
    assert all(threat.contains(z, x).all() for z in points)
    with torch.no_grad():
        least = torch.stack([margins(module(z), y) for z in points]).amin(0)
    for method in ("crown", "alpha_crown"):
        made = network_of(module, SHAPE)
        found = prove(made, legal(threat, x), y, effort(method, steps=4)).margins
        assert (found <= least).all()
        assert found.isfinite().all()
