"""Branch and bound against exact enumeration, and what holds of it by construction."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from gauntlet.certification.crown.branch_and_bound import Budget, problem_of, search, whole
from gauntlet.certification.crown.domains import joined
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import Effort, comparisons, prove
from gauntlet.certification.crown.split_choice import split
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import NETWORKS, dense, images, margins, network_of, seeded

BUDGET = Budget(domains=400, steps=20, candidates=3, together=8)


def exact(module, x, y, eps):
    """Least margins over each other class of a dense ReLU network on a linf ball: linear programs on every piece."""
    layers = [(m.weight.double().numpy(), m.bias.double().numpy()) for m in module if hasattr(m, "weight")]
    centre = x.double().flatten().numpy()
    low, high = np.clip(centre - eps, 0, 1), np.clip(centre + eps, 0, 1)
    box = list(zip(low, high, strict=True))

    def pieces(depth, w, b, rows, limits):
        """Scores w x + b and the piece {rows x <= limits} of the box on which they are so, for all pieces."""
        if depth == len(layers):
            yield w, b, rows, limits
            return
        for sign, cut, end in signs(w, b, 0, rows, limits):
            on, (v, c) = np.array(sign), layers[depth]
            yield from pieces(depth + 1, v @ (on[:, None] * w), v @ (on * b) + c, cut, end)

    def signs(w, b, at, rows, limits):
        if at == len(b):
            yield [], rows, limits
            return
        middle, spread = w[at] @ (low + high) / 2 + b[at], np.abs(w[at]) @ (high - low) / 2
        for on in (1.0, 0.0):
            if (middle + spread if on else spread - middle) < 0:
                continue
            cut, end = rows, limits
            if abs(middle) < spread:
                cut, end = [*rows, (1 - 2 * on) * w[at]], [*limits, (2 * on - 1) * b[at]]
                if linprog(np.zeros(len(centre)), cut, end, bounds=box).status != 0:
                    continue
            for rest, cuts, ends in signs(w, b, at + 1, cut, end):
                yield [on, *rest], cuts, ends

    found = np.full(len(layers[-1][1]), np.inf)
    for w, b, rows, limits in pieces(1, *layers[0], [], []):
        for k in range(len(found)):
            solved = linprog(w[y] - w[k], rows or None, limits or None, bounds=box)
            if k != y and solved.status == 0:
                found[k] = min(found[k], solved.fun + b[y] - b[k])
    return np.delete(found, y)


def searched(module, x, y, threat, budget=BUDGET, falls=lambda points: None, least=0.0):
    """The verdict on all functions of one image, also of those that need no search."""
    problem, known = asked(module, x, y, threat)
    return search(problem, known, least, budget, falls)


def asked(module, x, y, threat):
    network, region = network_of(module, tuple(x.shape[1:])), legal(threat, x)
    proof = prove(network, region, y, Effort("crown", 4, 0, 4.0, least=torch.inf))
    return problem_of(network, region, proof.ranges, comparisons(y, network.exact.classes)[0]), proof.margins[0]


def open_dense(*sizes):
    """A dense network all of whose first ReLUs change in the middle of the box, and its images near there."""
    module = seeded(dense(*sizes), 3)
    for layer in module[:-1]:
        if hasattr(layer, "bias"):
            layer.bias.data.zero_()
    module[-1].bias.data.mul_(0.1)
    module[1].bias.data.copy_(-0.5 * module[1].weight.sum(1))
    return module, 0.5 + 0.3 * (images(2, (1, 1, sizes[0])) - 0.5)


@pytest.mark.parametrize("sizes", [(3, 6, 3), (2, 4, 4, 3)])
def test_it_proves_what_is_true_and_nothing_else(sizes):
    """Asked for a little less than the exact margin it proves it, asked for a little more it does not."""
    (module, x), domains = open_dense(*sizes), []
    for i, eps in ((0, 0.12), (0, 0.3), (1, 0.3)):
        y = module(x[i : i + 1]).argmax(1)
        true = torch.tensor(exact(module, x[i], int(y), eps * (1 + 1e-6)))
        for above, why in ((-1e-3, "proven"), (1e-4, "exhausted")):
            least = float(true.min()) + above
            found = searched(module, x[i : i + 1], y, Threat("linf", eps), least=least)
            assert found.why == why
            assert (found.bounds <= true + 1e-9).all()
            assert (found.bounds > least).all() == (why == "proven")
            domains.append(found.domains)
    assert max(domains[::2]) >= 8


def test_with_all_signs_fixed_bounds_are_those_of_the_linear_program():
    module, x = open_dense(3, 5, 3)
    y = module(x[:1]).argmax(1)
    true = torch.tensor(exact(module, x[0], int(y), 0.2 * (1 + 1e-6)))
    found = searched(module, x[:1], y, Threat("linf", 0.2), Budget(300, 40, 1, 32), least=float(true.max()) + 1)
    assert (found.bounds <= true + 1e-9).all()
    torch.testing.assert_close(found.bounds, true, atol=1e-2, rtol=0)


def test_halves_are_no_looser_than_the_whole(network):
    module, shape = network
    x = images(1, shape)
    y = module(x).argmax(1)
    problem, known = asked(module, x, y, Threat("linf", 0.08))
    parent = problem.searched(whole(problem, known), 5, torch.inf)
    before = problem.proven(parent)[0]
    halves = split(problem, parent, 3)
    after = problem.proven(halves)[0]
    size = len(parent)
    assert len(halves) == 2 * size
    assert (after.reshape(2, size) >= before - 1e-5 * before.abs().amax()).all()
    assert (after.reshape(2, size) > before + 1e-6).any()
    further = problem.proven(problem.searched(joined([halves]), 10, torch.inf))[0]
    assert (further >= after - 1e-6 * before.abs().amax()).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_domains_are_no_looser_and_no_image_does_worse(network, norm):
    module, shape = network
    x, threat = images(1, shape, 4), Threat(norm, 0.2 if norm == "linf" else 0.6)
    y = module(x).argmin(1)  # false, so that there is room
    rng = torch.Generator().manual_seed(0)
    points = [threat.project(x + torch.randn(x.shape, generator=rng).sign(), x) for _ in range(50)]
    points += [threat.project(x + threat.radius * torch.randn(x.shape, generator=rng), x) for _ in range(50)]
    lowest = torch.cat([margins(module(z), y) for z in points]).amin(0).double()
    seen = []

    def falls(corners):
        z = threat.project(corners.float(), x.expand(len(corners), *shape))
        seen.append(margins(module(z), y.expand(len(z))).amin(0).double())

    bounds = [searched(module, x, y, threat, Budget(most, 5, 2, 4), falls, least=9.0).bounds for most in (1, 40)]
    assert (bounds[1] >= bounds[0]).all()
    assert (bounds[1] > bounds[0]).any()
    assert (bounds[1] <= torch.stack([lowest, *seen]).amin(0)).all()


def test_the_answer_is_that_of_the_budget():
    module, shape = NETWORKS["residual"]
    x = images(1, shape)
    y = module(x).argmin(1)
    first, again = (searched(module, x, y, Threat("linf", 0.02), Budget(20, 2, 2, 4)) for _ in range(2))
    assert torch.equal(first.bounds, again.bounds)
    assert (first.why, first.domains) == (again.why, again.domains) == ("budget", first.domains)
    assert 20 <= first.domains < 20 + 2 * 4
