"""Reduced networks against whole ones, and layers that are bounded by parts against points of random networks."""

from dataclasses import replace

import pytest
import torch

from gauntlet.certification.crown import reduced
from gauntlet.certification.crown.branch_and_bound import Budget, problem_of, search, whole
from gauntlet.certification.crown.graph import Graph
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.layer_tightening import closer
from gauntlet.certification.crown.margin_bounds import comparisons, prove
from gauntlet.certification.crown.reduced import Reduced
from gauntlet.certification.crown.split_choice import split
from gauntlet.certification.crown.whole_graph import WholeGraph
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import attacked, effort, images, margins, network_of
from tests.certification.crown.test_fuzz import SHAPE, drawn

AROUND = (3, 6, 9, 11, 15)
"""Seeds of networks that begin with a shortcut around their first ReLU, and are not reduced."""


def case(seed):
    """A random network, one image, a ball that leaves signs open, and the problem of all margins."""
    module, rng = drawn(seed)
    eps = 0.05 + 0.1 * float(torch.rand((), generator=rng))
    x, threat = images(1, SHAPE, seed), Threat("linf", eps) if seed % 3 else Threat("l2", 4 * eps)
    y = module(x).argmax(1)
    network, region = network_of(module, SHAPE), legal(threat, x)
    proof = prove(network, region, y, effort("crown"))
    if not len(proof.open):
        proof = prove(network, region, y, replace(effort("crown"), least=torch.inf))
    problem = problem_of(network, region, proof.ranges, comparisons(y, network.exact.classes)[0])
    return module, x, y, threat, problem, proof.margins[0]


@pytest.mark.parametrize("seed", [seed for seed in range(16) if seed not in AROUND])
def test_a_reduced_network_says_what_the_whole_one_does(seed):
    *_, problem, known = case(seed)
    assert isinstance(problem.quick, Reduced)
    domains = problem.searched(whole(problem, known), 3, torch.inf)
    for _ in range(3):
        domains = problem.searched(split(problem, domains, 2), 3, torch.inf)
    domains = replace(domains, value=domains.value + 0.1 * (domains.sign != 0))
    exact = problem.exact
    plain = replace(exact, ranges=replace(exact.ranges, slack=[None] * len(exact.graph.nodes)))
    taken, lines = problem.looked(domains)
    double = problem.lines(domains, torch.float64)
    true = plain.taken(domains.target, double, -domains.sign * domains.value.double())
    near = {"atol": 1e-4, "rtol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(taken.bound, true.bound, **near)
    torch.testing.assert_close(taken.above, true.above, **near)
    z, multipliers = problem.quick.values(taken, lines), -domains.sign * domains.value
    for step in torch.randn(6, *z.shape, generator=torch.Generator().manual_seed(seed)):
        further = problem.quick.taken(domains.target, lines, multipliers + 0.1 * step).bound
        assert (further <= taken.bound + 0.1 * (z * step).sum(1) + 1e-4).all()  # concave, with the slope z
    assert float(problem.excess(domains)) < 1e-3
    assert (problem.proven(domains)[0] <= true.bound).all()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("large", [False, True])
def test_no_point_leaves_the_layers_or_falls_below_the_margins(seed, large, monkeypatch):
    if large:
        monkeypatch.setattr(reduced, "CELLS", -1)
    module, x, y, threat, problem, known = case(seed)
    assert isinstance(problem.quick, WholeGraph if large or seed in AROUND else Reduced)
    ranges = closer(problem, 4, 3, 4.0)
    rng = torch.Generator().manual_seed(seed)
    points = [x, *(z.detach() for z in attacked(module, x, y, threat))]
    points += [threat.project(x + threat.radius * torch.randn(x.shape, generator=rng).sign(), x) for _ in range(30)]
    z = torch.cat(points)
    for at in problem.entries.places:
        inside = Graph(problem.network.quick.nodes[: at + 1]).forward(z)
        assert (inside >= ranges.lower[at]).all()
        assert (inside <= ranges.upper[at]).all()
        assert (ranges.lower[at] >= problem.ranges.lower[at]).all()
        assert (ranges.upper[at] <= problem.ranges.upper[at]).all()
    again = problem_of(problem.network, problem.region, ranges, problem.rows)
    found = search(again, known, 9.0, Budget(40, 4, 2, 8), lambda corners: None)
    least = margins(module(z), y.expand(len(z))).amin(0).double()
    assert (found.bounds <= least).all()
    assert (found.bounds >= known).all()


@pytest.mark.parametrize("seed", [0, 2, 7, 12])
def test_slopes_and_splits_tighten_layers(seed):
    """The second layer, below which nothing else differs."""
    problem = case(seed)[4]
    last = list(problem.entries.places)[1]
    every = [problem.ranges, *(closer(problem, 10, splits, 4.0) for splits in (0, 6))]
    first, second, third = (float((ranges.upper[last] - ranges.lower[last]).sum()) for ranges in every)
    assert third < second < first
