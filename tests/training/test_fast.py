"""Single steps and MART: closed forms, legality, purity."""

import pytest
import torch
import torch.nn.functional as F

from gauntlet.errors import UserError
from gauntlet.training.inner_attack import InnerPGD, NoisyFGSM
from gauntlet.training.objectives.mart import MARTObjective


def test_one_step_leaves_the_ball_by_its_noise_at_most_and_never_the_box(make_net, batch, rng):
    factors = torch.linspace(0, 1, len(batch.x))
    z = NoisyFGSM(eps=0.1)(make_net(steps=5), batch.x, batch.y, rng, factors)
    assert ((z - batch.x).abs().flatten(1).amax(1) <= 0.3 * factors + 1e-6).all()
    assert ((z - batch.x).abs().flatten(1).amax(1)[1:] > 0.1 * factors[1:]).all()
    assert ((z >= 0) & (z <= 1)).all()
    assert (z.dtype, z.requires_grad) == (batch.x.dtype, False)


def test_without_noise_it_is_one_step_of_pgd_from_the_image(make_net, batch, rng):
    net = make_net(steps=5)
    pgd = InnerPGD(eps=0.1, steps=1, step_size=1.0, init="zero")
    assert torch.equal(NoisyFGSM(eps=0.1, noise=0.0)(net, batch.x, batch.y, rng), pgd(net, batch.x, batch.y, rng))


def test_it_leaves_the_network_alone_and_draws_by_sample(make_net, batch, rng):
    net = make_net(dropout=0.5, steps=2).train()
    net.body[1].eval()
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    before, modes = {n: v.clone() for n, v in net.state_dict().items()}, [m.training for m in net.modules()]
    state = torch.random.get_rng_state()
    whole = NoisyFGSM(eps=0.1)(net, batch.x, batch.y, rng)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert all((weight.grad == 1).all() and weight.requires_grad for weight in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    some = torch.tensor([5, 2])
    part = NoisyFGSM(eps=0.1)(net, batch.x[some], batch.y[some], rng.select(some))
    assert torch.allclose(part, whole[some], atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"eps": -1}, {"eps": "unbounded"}, {"noise": -1.0}, {"step_size": 0.0}, {"noise": float("inf")}]
)
def test_unfit_options_are_refused(options):
    with pytest.raises(UserError):
        NoisyFGSM(**{"eps": 0.1, **options})


def test_mart_is_its_formula(make_net, batch, rng):
    net = make_net(steps=5).eval()
    objective = MARTObjective(InnerPGD(eps=0.15, steps=2, init="normal"), beta=5.0)
    z = objective.examples(net, batch.x, batch.y, rng)
    p, q = net(batch.x).softmax(1), net(z).softmax(1)
    right = F.one_hot(batch.y, 10).bool()
    other = q.masked_fill(right, -1).amax(1)
    bce = -q[right].log() - (1.0001 - other).log()
    expected = bce + 5 * (p * (p / q).log()).sum(1) * (1 - p[right])
    losses = objective.losses(net, batch.x, batch.y, z, rng)
    assert losses.shape == (32,)
    assert torch.allclose(losses, expected, atol=1e-5)
    assert torch.allclose(MARTObjective(objective.attack, beta=0).losses(net, batch.x, batch.y, z, rng), bce, atol=1e-5)
    assert torch.equal(objective.loss(net, batch.x, batch.y, rng), losses)
    with pytest.raises(UserError, match="beta"):
        MARTObjective(objective.attack, beta=-1.0)


@pytest.mark.parametrize("gap", [104.0, 1e4])
def test_mart_has_finite_gradients_for_any_gap_and_forgets_what_is_certain(gap):
    logits = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0]], requires_grad=True)
    y = torch.tensor([0, 0])
    model = torch.nn.Identity()
    losses = MARTObjective(InnerPGD(eps=0.1), beta=5.0).losses(model, logits, y, logits.roll(1, 0), None)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
    sure = MARTObjective(InnerPGD(eps=0.1), beta=5.0).losses(
        model, logits[:1], y[:1], torch.tensor([[1.0, 0.0, 0.0]]), None
    )
    plain = MARTObjective(InnerPGD(eps=0.1), beta=0.0).losses(
        model, logits[:1], y[:1], torch.tensor([[1.0, 0.0, 0.0]]), None
    )
    assert torch.allclose(sure, plain)
