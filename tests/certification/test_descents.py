"""Descents against a network whose lowest legal image is known, and in branch and bound."""

import pytest
import torch
from torch import nn

from gauntlet.certification import branch_and_bound, descents
from gauntlet.certification.branch_and_bound import BranchAndBound
from gauntlet.certification.crown.deadline import NEVER, Deadline
from gauntlet.certification.descents import Descents
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from tests.certification.crown.conftest import graph_of
from tests.certification.test_branch_and_bound import case, certify

SHAPE = (1, 4, 4)


def made(threat, deadline=NEVER, seed=0):
    """Descents for the score differences of a linear network, and these functions of the image."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).requires_grad_(False)
    x, rows = 0.3 + 0.4 * torch.rand(1, *SHAPE), torch.tensor([[1.0, -1, 0, 0], [1.0, 0, -1, 0], [1.0, 0, 0, -1]])
    rng = Rng(seed, torch.tensor([7]), "certificate")
    return Descents(graph_of(module, SHAPE).to(torch.float32), rows, threat, x, rng, deadline), module


@pytest.mark.parametrize("threat", [Threat("linf", 0.1), Threat("l2", 0.2)])
def test_a_linear_function_is_least_where_it_must_be(threat):
    asked, module = made(threat)
    target = torch.tensor([0, 1, 2, 0])
    z, value = asked.descended(asked.starts(4, 0), target, 60, 1.0)
    assert threat.contains(z, asked.x.expand_as(z)).all()
    weights = (asked.functions @ module[1].weight)[target]
    size = weights.abs().sum(1) if threat.norm == "linf" else weights.norm(dim=1)
    least = (module(asked.x) @ asked.functions.T)[0][target] - threat.radius * size
    torch.testing.assert_close(value, least, atol=2e-3, rtol=0)
    torch.testing.assert_close(value, (module(z) * asked.functions[target]).sum(1))


def test_crossings_are_legal_and_come_from_their_parents():
    asked, _ = made(Threat("linf", 0.1))
    z = asked.starts(6, 0)
    child = asked.crossed(z, 0)
    assert asked.threat.contains(child, asked.x.expand_as(child)).all()
    mirrored = asked.threat.project(2 * asked.x - z, asked.x.expand_as(z))
    same, back = ((child[:, None] == every[None]).any(1) for every in (z, mirrored))
    assert (same | back).all()
    assert 0.9 < same.float().mean() < 1
    assert not torch.equal(child, asked.crossed(z, 1))
    assert torch.equal(child, made(Threat("linf", 0.1))[0].crossed(z, 0))


def test_what_falls_is_returned_and_only_near_functions_are_pursued(monkeypatch):
    asked, calls = made(Threat("linf", 0.1))[0], []

    def never(z):
        calls.append(len(z))

    monkeypatch.setattr(descents, "NEAR", -torch.inf)
    assert asked.found(never) is None
    assert calls == [3 * descents.STARTS]
    monkeypatch.setattr(descents, "NEAR", torch.inf)
    assert asked.found(never) is None
    assert len(calls) > descents.PATIENCE
    first = asked.descended(asked.starts(24, 0), torch.arange(3).repeat(8), descents.STEPS, 1.0)[0]
    assert torch.equal(asked.found(lambda z: z[2]), first[2])
    late = len(calls)
    made(Threat("linf", 0.1), Deadline(-1.0))[0].found(never)
    assert len(calls) == late + 2


def test_a_hard_image_breaks_where_only_descents_find_it(monkeypatch):
    module, x, y, threat = case()
    certifier = BranchAndBound(domains=4, easy=1, inner_steps=1)
    found = certify(certifier, module, x, y, threat)
    monkeypatch.setattr(branch_and_bound, "search", lambda *a, s=branch_and_bound.search: s(*a[:-1], lambda z: None))
    blind = certify(certifier, module, x, y, threat)
    monkeypatch.setattr(branch_and_bound, "_descended", lambda *a: None)
    without = certify(certifier, module, x, y, threat)
    assert "broken" not in without.stop
    broken = [i for i, word in enumerate(blind.stop) if word == "broken"]
    assert broken
    assert {i for i, word in enumerate(found.stop) if word == "broken"} >= set(broken)
    wrong = module(torch.stack([blind.examples[i] for i in broken])).argmax(1) != y[broken]
    assert wrong.all()
