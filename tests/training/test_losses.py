"""The comp-sum and the label-distributionally robust losses are their closed forms."""

import pytest
import torch
import torch.nn.functional as F

from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.comp_sum import CompSumObjective, comp_sum, margin_shift
from gauntlet.training.objectives.label_distribution import LDRObjective, ldr_kl
from gauntlet.training.objectives.objective import PGDAT

SHIFT = InnerPGD(eps=0.15, steps=3, init="normal", loss="shift")


@pytest.fixture
def scores():
    """Clean and attacked logits, labels."""
    draws = torch.Generator().manual_seed(0)
    clean, attacked = (3 * torch.randn(6, 5, generator=draws, dtype=torch.float64) for _ in range(2))
    return clean, attacked, torch.tensor([0, 1, 2, 3, 4, 0])


def _cross_entropy(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


def test_the_comp_sum_family_holds_its_members(scores):
    logits, _, y = scores
    p = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    u = (logits - logits.gather(1, y[:, None])).exp().sum(1) - 1
    assert torch.allclose(comp_sum(logits, y, 0.0), u)
    assert torch.allclose(comp_sum(logits, y, 1.0), _cross_entropy(logits, y))
    assert torch.allclose(comp_sum(logits, y, 1.5), (1 - p.sqrt()) / 0.5)
    assert torch.allclose(comp_sum(logits, y, 2.0), 1 - p)
    for tau in (0.999999, 1.000001):
        assert torch.allclose(comp_sum(logits, y, tau), comp_sum(logits, y, 1.0), rtol=1e-4)


def test_the_change_of_margins_is_blind_to_constants_and_to_the_order_of_wrong_classes(scores):
    clean, attacked, y = scores
    found = margin_shift(clean, attacked, y)
    assert torch.allclose(margin_shift(clean, attacked + torch.rand(6, 1), y), found)
    order = torch.tensor([0, 2, 3, 4, 1])
    zeros = torch.zeros_like(y)
    assert torch.allclose(
        margin_shift(clean[:, order], attacked[:, order], zeros), margin_shift(clean, attacked, zeros)
    )
    two = (attacked - clean)[:, :2]
    assert torch.allclose(margin_shift(clean[:, :2], attacked[:, :2], zeros), (two[:, 0] - two[:, 1]).abs())


def test_without_the_change_it_is_cross_entropy_on_images(batch, rng, make_net):
    net = make_net().eval()
    objective = CompSumObjective(SHIFT, nu=0.0)
    assert objective.examples(net, batch.x, batch.y, rng) is batch.x
    assert torch.allclose(objective.loss(net, batch.x, batch.y, rng), _cross_entropy(net(batch.x), batch.y), atol=1e-6)


def test_the_attack_ascends_the_change_of_the_margins(batch, rng, make_net):
    net = make_net(steps=10).eval()
    z = SHIFT(net, batch.x, batch.y, rng)
    assert Threat("linf", 0.15).contains(z, batch.x).all()
    noise = Threat("linf", 0.15).random(batch.x, rng)
    clean = net(batch.x)
    assert (margin_shift(clean, net(z), batch.y) > margin_shift(clean, net(noise), batch.y)).float().mean() > 0.9


def test_the_direction_of_the_attack_is_the_gradient_of_the_loss(batch, make_net):
    net = make_net(steps=10).eval()
    z, clean = (batch.x + 0.05).clamp(0, 1), net(batch.x).detach()
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(margin_shift(clean, net(leaf), batch.y).sum(), leaf)
    direction = SHIFT._gradient(net, z, batch.y, clean)
    assert torch.allclose(F.cosine_similarity(gradient.flatten(1), direction.flatten(1)), torch.ones(32), atol=1e-4)


def test_ldr_is_the_worst_case_over_distributions(scores):
    logits, _, y = scores
    t, c = 0.7, 0.3
    found = ldr_kl(logits, y, t, c)
    gaps = logits - logits.gather(1, y[:, None]) + c * (1 - F.one_hot(y, 5))
    worst = (gaps / t).softmax(1)

    def value(p):
        return (p * gaps).sum(1) - t * (p * (5 * p).log()).sum(1)

    assert torch.allclose(value(worst), found)
    for seed in range(5):
        other = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)
        assert (value(other) < found).all()


def test_ldr_holds_cross_entropy_and_the_largest_margin(scores):
    logits, _, y = scores
    assert torch.allclose(ldr_kl(logits, y, 1.0, 0.0), _cross_entropy(logits, y) - torch.tensor(5.0).log())
    rivals = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)
    assert torch.allclose(ldr_kl(logits, y, 1e-5, 1.0), (1 + rivals).clamp_min(0), atol=1e-3)


def test_ldr_of_temperature_one_has_the_gradients_of_adversarial_training(batch, rng, make_net):
    attack, net = InnerPGD(eps=0.15, steps=2), make_net().eval()
    mine, theirs = (
        torch.autograd.grad(objective.loss(net, batch.x, batch.y, rng).mean(), list(net.parameters()))
        for objective in (LDRObjective(attack, margin=0.0), PGDAT(attack))
    )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CompSumObjective(InnerPGD(eps=0.1)), "loss=shift"),
        (lambda: CompSumObjective(SHIFT, rho=0.0), "rho"),
        (lambda: CompSumObjective(SHIFT, tau=-1.0), "tau"),
        (lambda: CompSumObjective(SHIFT, nu=-1.0), "nu"),
        (lambda: LDRObjective(SHIFT, temperature=0.0), "temperature"),
        (lambda: LDRObjective(SHIFT, margin=-1.0), "margin"),
        (lambda: InnerPGD(eps=0.1, loss="shift", init="zero"), "loss=shift has no gradient"),
    ],
)
def test_values_out_of_range_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
