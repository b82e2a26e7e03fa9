"""The attack inside a training step: legal, strong, and without a trace."""

import itertools

import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.threat_model.threat import Threat
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import divergence


def _state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(("norm", "eps"), [("linf", "8/255"), ("linf", 0.15), ("l2", 1.0), ("l1", 3.0)])
@pytest.mark.parametrize("init", InnerPGD.INITS)
def test_examples_are_legal_and_detached(norm, eps, init, make_net, batch, rng):
    z = InnerPGD(norm=norm, eps=eps, steps=3, init=init)(make_net(steps=5), batch.x, batch.y, rng)
    assert Threat(norm, eps).contains(z, batch.x).all()
    assert (z.dtype, z.device, z.requires_grad) == (batch.x.dtype, batch.x.device, False)
    assert not torch.equal(z, batch.x)


def test_each_sample_has_its_own_budget(make_net, batch, rng):
    factors = torch.linspace(0, 2, len(batch.x))
    z = InnerPGD(eps=0.1, steps=5)(make_net(steps=5), batch.x, batch.y, rng, factors)
    distance = (z - batch.x).abs().flatten(1).amax(1)
    assert (distance <= 0.1 * factors + 1e-6).all()
    assert (distance[1:] > 0.05 * factors[1:]).all()
    assert torch.equal(z[0], batch.x[0])


@pytest.mark.parametrize("loss", InnerPGD.LOSSES)
def test_the_network_keeps_statistics_gradients_and_modes(loss, make_net, batch, rng):
    net = make_net(dropout=0.5, steps=2).train()
    net.body[1].eval()  # a frozen layer
    net.head.bias.requires_grad_(False)
    for number, weight in enumerate(net.parameters()):
        weight.grad = torch.full_like(weight, number)
    before, modes = _state(net), [module.training for module in net.modules()]
    InnerPGD(eps=0.15, steps=3, loss=loss)(net, batch.x, batch.y, rng)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert all((weight.grad == number).all() for number, weight in enumerate(net.parameters()))
    assert [name for name, weight in net.named_parameters() if not weight.requires_grad] == ["head.bias"]


def test_train_mode_is_there_for_comparison_and_moves_the_statistics(make_net, batch, rng):
    net = make_net().train()
    before = _state(net)
    InnerPGD(eps=0.15, steps=1, bn_mode="train")(net, batch.x, batch.y, rng)
    assert not torch.equal(net.body[1].running_mean, before["body.1.running_mean"])


def test_the_network_is_restored_when_it_raises(make_net, batch, rng):
    net = make_net().train()
    with pytest.raises(RuntimeError):
        InnerPGD(eps=0.15)(net, batch.x.repeat(1, 2, 1, 1), batch.y, rng)
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())


def test_draws_depend_on_the_sample_alone_and_on_nothing_global(make_net, batch, rng):
    net = make_net(steps=5)
    attack = InnerPGD(eps=0.15, steps=3)
    torch.manual_seed(1)
    whole = attack(net, batch.x, batch.y, rng)
    torch.manual_seed(2)
    seed_after = torch.random.get_rng_state()
    some = torch.arange(31, -1, -3)
    part = attack(net, batch.x[some], batch.y[some], rng.select(some))
    assert torch.allclose(part, whole[some], atol=1e-6)
    assert torch.equal(torch.random.get_rng_state(), seed_after)
    assert not torch.equal(whole, attack(net, batch.x, batch.y, rng.stream("other epoch")))


def test_no_step_gives_the_start_and_one_full_step_is_fgsm(make_net, batch, rng):
    net = make_net(steps=5).eval()
    assert torch.equal(InnerPGD(eps=0.15, steps=0, init="zero")(net, batch.x, batch.y, rng), batch.x)
    z = InnerPGD(eps=0.15, steps=1, step_size=1.0, init="zero")(net, batch.x, batch.y, rng)
    x = batch.x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(net(x), batch.y, reduction="sum").backward()
    assert torch.allclose(z, (batch.x + 0.15 * x.grad.sign()).clamp(0, 1), atol=1e-6)


def test_more_steps_are_stronger(make_net, batch, rng):
    net = make_net(steps=30).eval()

    def loss(**options):
        z = InnerPGD(eps=0.15, **options)(net, batch.x, batch.y, rng)
        return torch.nn.functional.cross_entropy(net(z), batch.y).item()

    losses = [loss(steps=0), loss(steps=1, step_size=1.0), loss(steps=10), loss(steps=20)]
    assert all(later > earlier - 0.05 for earlier, later in itertools.pairwise(losses))
    assert losses[2] > losses[0] + 0.5


def test_the_divergence_attack_raises_the_divergence_from_a_normal_start(make_net, batch, rng):
    net = make_net(steps=30).eval()
    clean = net(batch.x)
    z = InnerPGD(eps=0.15, loss="kl", init="normal")(net, batch.x, batch.y, rng)
    near = batch.x + 0.001
    assert divergence(clean, net(z)).mean() > 10 * divergence(clean, net(near)).mean()


def test_the_cotangent_of_the_divergence_is_its_gradient():
    from gauntlet.training.inner_attack import _divergence

    clean, moved = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved.requires_grad_()
    (true,) = torch.autograd.grad(divergence(clean, moved).sum(), moved)
    closed = _divergence(moved, clean.softmax(1))
    assert torch.allclose(closed, true / true.abs().sum(1, keepdim=True))


@pytest.mark.parametrize(
    "options",
    [
        {"eps": -1}, {"eps": "8/0"}, {"eps": "unbounded"}, {"norm": "l7"}, {"steps": -1}, {"step_size": 0},
        {"init": "laplace"}, {"loss": "mse"}, {"bn_mode": "eva"}, {"loss": "kl", "init": "zero"},
    ],
)  # fmt: skip
def test_unfit_options_are_refused(options):
    with pytest.raises(UserError, match=r"attack\."):
        InnerPGD(**{"eps": 0.1, **options})
