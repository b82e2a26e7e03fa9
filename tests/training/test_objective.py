"""Objectives: per-sample losses that reduce to known ones."""

import pytest
import torch
import torch.nn.functional as F

from gauntlet.errors import UserError
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import PGDAT, Standard, TRADESObjective, divergence


def _gradients(net, losses):
    net.zero_grad()
    losses.mean().backward()
    return [weight.grad.clone() for weight in net.parameters()]


def _trades(**options):
    return TRADESObjective(InnerPGD(eps=0.15, steps=2, loss="kl", init="normal"), **options)


@pytest.mark.parametrize("objective", [Standard(), PGDAT(InnerPGD(eps=0.15, steps=2)), _trades()])
def test_losses_are_per_sample_and_ignore_the_others(objective, make_net, batch, rng):
    net = make_net(steps=5).eval()
    losses = objective.loss(net, batch.x, batch.y, rng)
    assert losses.shape == (32,)
    some = torch.arange(5)
    again = objective.loss(net, batch.x[some], batch.y[some], rng.select(some))
    assert torch.allclose(again, losses[some], atol=1e-5)
    assert objective.classifier(net) is net


def test_standard_is_cross_entropy(make_net, batch, rng):
    net = make_net()
    losses = Standard().loss(net, batch.x, batch.y, rng)
    assert torch.equal(losses, F.cross_entropy(net(batch.x), batch.y, reduction="none"))


def test_pgd_training_without_attack_is_standard_training(make_net, batch, rng):
    first, second = make_net(), make_net()
    unattacked = PGDAT(InnerPGD(eps=0.15, steps=0, init="zero"))
    left = _gradients(first, Standard().loss(first, batch.x, batch.y, rng))
    right = _gradients(second, unattacked.loss(second, batch.x, batch.y, rng))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_trades_without_its_second_term_is_standard_training(make_net, batch, rng):
    first, second = make_net(), make_net()
    left = _gradients(first, Standard().loss(first, batch.x, batch.y, rng))
    right = _gradients(second, _trades(beta=0).loss(second, batch.x, batch.y, rng))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_trades_is_cross_entropy_plus_beta_times_divergence(make_net, batch, rng):
    net = make_net(steps=5).eval()
    objective = _trades(beta=3.0)
    z = objective.attack(net, batch.x, batch.y, rng.stream("attack"))
    clean = F.cross_entropy(net(batch.x), batch.y, reduction="none")
    losses = objective.loss(net, batch.x, batch.y, rng)
    assert torch.allclose(losses, clean + 3.0 * divergence(net(batch.x), net(z)), atol=1e-6)
    assert (losses >= clean).all()
    with pytest.raises(UserError, match="beta"):
        _trades(beta=-1)


def test_divergence_is_that_of_the_library_and_has_both_gradients():
    p, q = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True).sum(1)
    assert torch.allclose(divergence(p, q), expected)
    assert torch.allclose(divergence(p, p), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.autograd.gradcheck(divergence, (p.detach().requires_grad_(), q.detach().requires_grad_()))


@pytest.mark.parametrize("gap", [103.0, 104.0, 1e4, 1e30])
def test_divergence_is_finite_for_any_gap(gap):
    p = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0]], requires_grad=True)
    q = torch.tensor([[0.0, gap, 0.0], [0.0, gap, 0.0]], requires_grad=True)
    value = divergence(p, q)
    gradients = torch.autograd.grad(value.sum(), (p, q))
    assert all(t.isfinite().all() for t in (value, *gradients))
