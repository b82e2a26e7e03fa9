"""Proven margins: exact where a formula or an exhaustive search is at hand, and never above what images do."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from gauntlet.certification.crown.ibp import intervals
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import METHODS, prove
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import NETWORKS, dense, effort, graph_of, images, margins, network_of

THREATS = {"linf": Threat("linf", 0.05), "l2": Threat("l2", 0.3), "whole box": Threat("linf", "unbounded")}


def proven(module, x, y, threat, method, steps=10, inner_steps=0):
    made = network_of(module, tuple(x.shape[1:]))
    return prove(made, legal(threat, x), y, effort(method, steps, inner_steps)).margins


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_linear_layer_is_exact(method, norm):
    module, eps = dense(8, 4), 0.1
    x = 0.3 + 0.4 * images(5, (2, 2, 2))  # the box does not cut the ball
    y = module(x).argmax(1)
    weight = module[1].weight.double()
    apart = torch.stack([weight[c] - torch.cat([weight[:c], weight[c + 1 :]]) for c in y])
    size = apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
    expected = margins(module.double()(x.double()), y) - eps * size
    module.float()
    torch.testing.assert_close(proven(module, x, y, Threat(norm, eps), method), expected, atol=1e-5, rtol=0)


def test_the_ball_is_followed_through_normalisation_to_the_first_convolution():
    """IBP is exact there: the worst image of each output, eps along its gradient, reaches the bound."""
    module, shape, eps = nn.Sequential(NETWORKS["convolutional"][0][:2], nn.Flatten(), nn.Linear(64, 4)), (2, 8, 8), 0.1
    module.requires_grad_(False)[2].weight.data.copy_(torch.eye(64)[20:24])
    x = 0.3 + 0.4 * images(2, shape)
    upper = intervals(graph_of(module[:2], shape), legal(Threat("l2", eps), x)).upper[-1][:, 20:24]
    for out in range(4):
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(z)[:, out].sum(), z)
        worst = module(x + eps * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1))[:, out]
        reached = worst - module[2].bias[out]
        assert (reached <= upper[:, out]).all()
        torch.testing.assert_close(reached.double(), upper[:, out], atol=1e-4, rtol=0)


def test_a_linear_function_on_a_cut_ball():
    """Against the best multiplier of a fine grid, from above; and never looser than the ball or the box alone."""
    x, a = images(20, (1, 3, 3)) ** 4, torch.randn(20, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    region = legal(Threat("l2", 0.8), x)
    centre, radius = region.centre.flatten(1), region.radius[:, None]
    t = torch.logspace(-4, 4, 20001, dtype=torch.float64)
    steps = (-a.flatten(1)[:, None] * t[:, None]).clamp(-centre[:, None], 1 - centre[:, None])
    legal_steps = steps * (steps.norm(dim=2, keepdim=True) <= radius[:, None])
    best = ((a.flatten(1)[:, None] * legal_steps).sum(2)).amin(1) + (a.flatten(1) * centre).sum(1)
    found = region.least(a, torch.arange(20))
    ball = (a.flatten(1) * centre).sum(1) - radius.squeeze(1) * a.flatten(1).norm(dim=1)
    box = torch.where(a > 0, 0.0, a).flatten(1).sum(1)
    assert (found <= best + 1e-9).all()
    assert (found >= ball.maximum(box) - 1e-3).all()
    assert float((best - found).max()) < 0.02
    assert float((best - ball).mean()) > 0.05  # the box does cut


def exact_margin(module, x, y, eps):
    """The least margin of a Flatten, Linear, ReLU, Linear network on a linf ball: one LP a pattern of activations."""
    (w, b), (v, c) = ((layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in (module[1], module[3]))
    centre = x.double().flatten().numpy()
    box = list(zip(np.clip(centre - eps, 0, 1), np.clip(centre + eps, 0, 1), strict=True))
    least = np.inf
    for other in (k for k in range(len(c)) if k != y):
        row, shift = v[y] - v[other], c[y] - c[other]
        for on in itertools.product([0, 1], repeat=len(b)):
            sign = np.where(on, -1.0, 1.0)
            solved = linprog((row * on) @ w, sign[:, None] * w, -sign * b, bounds=box)
            if solved.status == 0:
                least = min(least, solved.fun + (row * on) @ b + shift)
    return least


def triangle_margins(module, x, y, eps):
    """The same margins, one for each other class, with every open ReLU relaxed to its triangle: one LP each."""
    (w, b), (v, c) = ((layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in (module[1], module[3]))
    centre = x.double().flatten().numpy()
    low, high = np.clip(centre - eps, 0, 1), np.clip(centre + eps, 0, 1)
    middle, spread = w @ (low + high) / 2 + b, np.abs(w) @ (high - low) / 2
    below, above = middle - spread, middle + spread
    d, h = w.shape[1], len(b)
    rows, limits = [], []
    for i in range(h):  # variables: the image, then the outputs of the ReLUs
        out = np.eye(h)[i]
        if above[i] <= 0:
            rows.append(np.concatenate([np.zeros(d), out]))
            limits.append(0.0)
            continue
        slope = above[i] / (above[i] - below[i]) if below[i] < 0 else 1.0
        rows += [np.concatenate([w[i], -out]), np.concatenate([-slope * w[i], out])]
        limits += [-b[i], slope * b[i] - slope * min(below[i], 0.0)]
    bounds = [*zip(low, high, strict=True), *[(0, None)] * h]
    return [
        linprog(np.concatenate([np.zeros(d), v[y] - v[k]]), np.array(rows), limits, bounds=bounds).fun + c[y] - c[k]
        for k in range(len(c))
        if k != y
    ]


def test_two_layers_against_all_activation_patterns():
    module, x, eps = dense(4, 5, 3), images(4, (1, 2, 2)), 0.15
    y = module(x).argmax(1)
    exact = torch.tensor([exact_margin(module, x[i], int(y[i]), eps) for i in range(len(x))])
    for method in METHODS:
        assert (proven(module, x, y, Threat("linf", eps), method).amin(1) <= exact + 1e-9).all()
    assert (proven(module, x, y, Threat("linf", 1e-4), "crown").amin(1) > exact).all()


def test_optimised_slopes_reach_the_triangle_relaxation():
    """With one hidden layer the best slopes give the optimum of the LP (Salman et al. 2019, arXiv 1902.08722)."""
    module, x, eps = dense(4, 8, 3), images(6, (1, 2, 2)), 0.3
    y = module(x).argmin(1)  # what is proven is not bounded any better, so ask for what is false
    best = torch.tensor([triangle_margins(module, x[i], int(y[i]), eps) for i in range(len(x))])
    found = proven(module, x, y, Threat("linf", eps), "alpha_crown", steps=100)
    crown = proven(module, x, y, Threat("linf", eps), "crown")
    assert (found <= best + 1e-6).all()
    assert float((best - found).max()) < 2e-3
    assert float((best - crown).max()) > 1e-2


@pytest.mark.parametrize("threat", list(THREATS))
def test_a_later_method_is_no_looser(network, threat):
    module, shape = network
    x = images(3, shape)
    y = module(x).argmin(1)  # false, so that every method is tried
    found = [proven(module, x, y, THREATS[threat], method).amin(1) for method in METHODS]
    found.append(proven(module, x, y, THREATS[threat], "alpha_crown", inner_steps=5).amin(1))
    for looser, tighter in itertools.pairwise(found):
        assert (tighter >= looser).all()
    assert (found[-1] <= margins(module(x), y).amin(1)).all()
    assert (found[3] > found[0]).any()


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(list(NETWORKS)),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(0.001, 0.6),
    seed=st.integers(0, 99),
)
def test_no_image_does_worse(name, norm, eps, seed):
    """Random points, corners and PGD, evaluated as deployed, stay above the margins of every method."""
    (module, shape), threat = NETWORKS[name], Threat(norm, eps)
    x = images(2, shape, seed)
    y = module(x).argmax(1)
    rng = torch.Generator().manual_seed(seed)
    points = [threat.project(x + eps * torch.randn(x.shape, generator=rng).sign(), x) for _ in range(20)]
    points += [threat.project(x + eps * torch.randn(x.shape, generator=rng), x) for _ in range(20)]
    for other in range(2):  # towards each other class
        z = x.clone()
        for _ in range(8):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(margins(module(z), y)[:, other].sum(), z)
            z = threat.project(z.detach() - 0.5 * eps * threat.steepest(slope), x)
            points.append(z)
    least = torch.stack([margins(module(z.detach()), y) for z in points if threat.contains(z.detach(), x).all()]).amin(
        0
    )
    for method in METHODS:
        assert (proven(module, x, y, threat, method, steps=4) <= least).all()


@pytest.mark.parametrize("method", ["ibp", "alpha_crown"])
def test_a_tiny_ball_has_the_margins_of_its_centre(network, method):
    module, shape = network
    x = images(4, shape)
    y = module(x).argmax(1)
    found = proven(module, x, y, Threat("linf", 1e-9), method)
    assert (found <= margins(module(x), y)).all()
    torch.testing.assert_close(found.float(), margins(module(x), y), atol=1e-3, rtol=0)


def test_float32_rounding_is_part_of_the_network():
    """A margin of 0.01 in exact arithmetic that float32 loses between two large constants is not proven."""

    class Shifted(nn.Module):
        def forward(self, x):
            lost = torch.relu(x.flatten(1) + 3e6) - 3e6
            return torch.nn.functional.linear(lost, torch.tensor([[1.0], [0.0]]), torch.tensor([-0.49, 0.0]))

    module, x = Shifted(), torch.full((1, 1, 1, 1), 0.50)
    y = torch.zeros(1, dtype=torch.int64)
    deployed = float(margins(module(x), y))
    assert deployed > 0.009 or deployed < 0
    for method in METHODS:
        assert float(proven(module, x, y, Threat("linf", 1e-6), method)) < -0.05


def test_what_becomes_of_an_image_does_not_depend_on_its_batch(network):
    module, shape = network
    x = images(4, shape)
    y = module(x).argmax(1)
    for threat in (THREATS["linf"], THREATS["l2"]):
        together = proven(module, x, y, threat, "alpha_crown")
        alone = torch.cat([proven(module, x[i : i + 1], y[i : i + 1], threat, "alpha_crown") for i in range(4)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_each_image_may_have_its_own_budget():
    module, shape = NETWORKS["dense"]
    x = images(2, shape)
    y = module(x).argmax(1)
    scaled = proven(module, x, y, Threat("linf", 0.1).scaled(torch.tensor([1.0, 0.5])), "crown_ibp")
    for i, eps in enumerate((0.1, 0.05)):
        alone = proven(module, x[i : i + 1], y[i : i + 1], Threat("linf", eps), "crown_ibp")
        torch.testing.assert_close(scaled[i : i + 1], alone)
