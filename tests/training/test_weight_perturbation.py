"""The adversary of the weights: exact in size, exact to undo, and without a trace."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gauntlet.errors import UserError
from gauntlet.training.distributed import ALONE
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.model_context import PassCounter
from gauntlet.training.objectives.objective import PGDAT, TRADESObjective
from gauntlet.training.step import Player
from gauntlet.training.weight_perturbation import WeightPerturbation

AWP = WeightPerturbation(radius=0.01)
AMP = WeightPerturbation(radius=0.5, relative=False, shape="ball", include="all")
SAM = WeightPerturbation(radius=0.05, relative=False, scope="global", include="all")
ASAM = WeightPerturbation(radius=0.5, relative=False, scope="global", include="all", adaptive=True)


def _gradients(net, batch):
    def call(weights):
        loss = F.cross_entropy(net(batch.x), batch.y)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]

    return call


def _moves(perturbation, net, batch):
    """Name -> (weight before, move)."""
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    with perturbation.moved(perturbation.chosen(net.parameters()), _gradients(net, batch)):
        return {name: (before[name], weight.detach() - before[name]) for name, weight in net.named_parameters()}


@pytest.mark.parametrize("steps", [1, 3])
def test_awp_moves_each_kernel_by_its_share_and_nothing_else(steps, make_net, batch):
    perturbation = WeightPerturbation(radius=0.01, steps=steps)
    for name, (weight, move) in _moves(perturbation, make_net(steps=5).eval(), batch).items():
        share = float(move.double().norm() / weight.double().norm())
        if weight.dim() < 2:
            assert share == 0, name
        elif steps == 1:
            assert share == pytest.approx(0.01, rel=1e-5), name
        else:
            assert 0 < share <= 0.01 * (1 + 1e-5), name


def test_awp_moves_along_the_gradient(make_net, batch):
    net = make_net(steps=5).eval()
    weight = net.body[0].weight
    (gradient,) = _gradients(net, batch)([weight])
    old, move = _moves(AWP, net, batch)["body.0.weight"]
    assert torch.allclose(move, 0.01 * old.norm() * gradient / gradient.norm(), atol=1e-7)


def test_filters_have_each_their_own_share(make_net, batch):
    old, move = _moves(WeightPerturbation(scope="filter"), make_net(steps=5).eval(), batch)["body.3.weight"]
    assert torch.allclose(move.flatten(1).norm(dim=1), 0.01 * old.flatten(1).norm(dim=1), rtol=1e-4)


def test_sam_has_one_length_over_all_weights_and_amp_stays_in_the_ball_of_each(make_net, batch):
    net = make_net(steps=5).eval()
    total = math.sqrt(sum(float(move.double().square().sum()) for _, move in _moves(SAM, net, batch).values()))
    assert total == pytest.approx(0.05, rel=1e-4)
    gradients = dict(
        zip([n for n, _ in net.named_parameters()], _gradients(net, batch)(list(net.parameters())), strict=True)
    )
    for name, (_, move) in _moves(AMP, net, batch).items():
        g = gradients[name]
        assert torch.allclose(move, g * (0.5 / g.norm()).clamp_max(1), atol=1e-6), name
    small = WeightPerturbation(radius=0.01, relative=False, shape="ball", include="all", steps=3)
    assert all(move.norm() <= 0.01 * (1 + 1e-4) for _, move in _moves(small, net, batch).values())


def test_asam_scales_by_the_size_of_each_weight(make_net, batch):
    net = make_net(steps=5).eval()
    weights = list(net.parameters())
    sizes = [w.detach().abs() + 0.01 if w.dim() > 1 else torch.ones_like(w) for w in weights]
    scaled = [t * g for t, g in zip(sizes, _gradients(net, batch)(weights), strict=True)]
    length = torch.cat([s.flatten() for s in scaled]).norm()
    for t, s, (_, move) in zip(sizes, scaled, _moves(ASAM, net, batch).values(), strict=True):
        assert torch.allclose(move, 0.5 * t * s / length, atol=1e-6)


@pytest.mark.parametrize("perturbation", [AWP, AMP, SAM, ASAM])
def test_weights_come_back_bit_for_bit_also_after_an_error(perturbation, make_net, batch):
    net = make_net(steps=2).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(20):
        with perturbation.moved(perturbation.chosen(net.parameters()), _gradients(net, batch)):
            pass
    with (
        pytest.raises(ZeroDivisionError),
        perturbation.moved(perturbation.chosen(net.parameters()), _gradients(net, batch)),
    ):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_vanishing_gradient_moves_nothing(make_net):
    net = make_net()
    for perturbation in (AWP, AMP, SAM, ASAM):
        with perturbation.moved(perturbation.chosen(net.parameters()), lambda ws: [torch.zeros_like(w) for w in ws]):
            assert all(weight.isfinite().all() for weight in net.parameters())


def test_the_loss_rises_as_the_first_order_says_and_a_random_direction_does_nothing(make_net, batch):
    net = make_net(steps=10).eval()
    weights = AWP.chosen(net.parameters())
    with torch.no_grad():
        loss = float(F.cross_entropy(net(batch.x), batch.y))
    gradients = _gradients(net, batch)(weights)
    slope = sum(float(w.detach().norm() * g.norm()) for w, g in zip(weights, gradients, strict=True))

    def at(radius, direction):
        with torch.no_grad(), WeightPerturbation(radius=radius).moved(weights, lambda ws: direction):
            return float(F.cross_entropy(net(batch.x), batch.y))

    assert at(0.002, gradients) == pytest.approx(loss + 0.002 * slope, abs=0.1 * 0.002 * slope)
    noise = [torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) for w in weights]
    assert abs(at(0.01, noise) - loss) < 0.3 * (at(0.01, gradients) - loss)


def test_the_step_on_a_parabola_is_known_in_closed_form():
    """L = h w^2 / 2: the gradient at w + min(zeta h w, eps) gives the step lr h (w + min(zeta h w, eps))."""
    h, lr = 0.7, 0.1
    for start, radius, zeta in ((2.0, 0.5, 1.0), (0.3, 0.5, 1.0), (2.0, 0.5, 0.1)):
        w = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        ball = WeightPerturbation(radius=radius, relative=False, shape="ball", include="all", step_size=zeta)
        with ball.moved([w], lambda ws: [h * ws[0].detach()]):
            gradient = h * w.detach().clone()
        w.data -= lr * gradient
        assert float(w.detach()) == pytest.approx(start - lr * h * (start + min(zeta * h * start, radius)))


@pytest.fixture
def player(make_net, make_recipe):
    def make(perturbation, objective=None, steps=5, **changes):
        recipe = make_recipe(steps=2, weight_perturbation=perturbation, **changes)
        recipe = make_recipe(objective=objective, weight_perturbation=perturbation, **changes) if objective else recipe
        net = make_net(steps=steps).train()
        return net, Player(net, recipe, ALONE, None)

    return make


def _run(player, batch, rng, times=3):
    for k in range(times):
        player(batch.x, batch.y, rng.stream(k), 1.0, (0.5, 0.5))


KL = TRADESObjective(InnerPGD(eps=0.15, steps=2, loss="kl", init="normal"))


@pytest.mark.parametrize("objective", [PGDAT(InnerPGD(eps=0.15, steps=2)), KL])
def test_a_step_is_the_gradient_at_the_moved_weights_applied_to_the_old_ones(objective, player, make_net, batch, rng):
    """Also that the examples are crafted once, at the old weights, and that TRADES ascends its own loss."""
    net, one = player(AWP, objective, weight_decay=0.0, momentum=0.0, learning_rate=0.1)
    fused = make_net(steps=5).train()
    old = [weight.detach().clone() for weight in fused.parameters()]
    draws = rng.stream(0).stream("objective")
    z = objective.examples(fused, batch.x, batch.y, draws)

    def gradients(weights):
        loss = objective.losses(fused, batch.x, batch.y, z, draws).mean()
        return list(torch.autograd.grad(loss, weights))

    with AWP.moved(AWP.chosen(fused.parameters()), gradients):
        at_moved = gradients(list(fused.parameters()))
    _run(one, batch, rng, 1)
    for new, before, g in zip(net.parameters(), old, at_moved, strict=True):
        assert torch.allclose(new, before - 0.1 * g, atol=1e-6)


@pytest.mark.parametrize(
    "off", [WeightPerturbation(radius=0.0), WeightPerturbation(steps=0), WeightPerturbation(start=0.6)]
)
def test_switched_off_it_changes_no_bit(off, player, batch, rng):
    (plain, one), (net, other) = player(None), player(off)
    _run(one, batch, rng)
    _run(other, batch, rng)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), net.state_dict().values(), strict=True))


def test_the_inner_step_moves_neither_statistics_nor_momentum_nor_draws(player, batch, rng):
    seen = []

    class Spy(PGDAT):
        def losses(self, model, x, y, z, draws):
            buffers = [buffer.clone() for buffer in model.buffers()]
            momentum = [entry["momentum_buffer"].clone() for entry in one.optimizer.state.values()]
            seen.append((buffers, momentum, torch.random.get_rng_state()))
            return super().losses(model, x, y, z, draws)

    _, one = player(WeightPerturbation(radius=0.01, steps=2), Spy(InnerPGD(eps=0.15, steps=1)))
    _run(one, batch, rng, 2)
    assert len(seen) == 6  # two inner passes and the outer one, twice
    for inner, outer in ((0, 2), (1, 2), (3, 5), (4, 5)):
        for left, right in zip(seen[inner][:2], seen[outer][:2], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
        assert torch.equal(seen[inner][2], seen[outer][2])
    assert seen[5][1]


@pytest.mark.parametrize(("where", "perturbed"), [("clean", False), ("perturbed", True)])
def test_statistics_follow_the_chosen_weights(where, perturbed, player, make_net, batch, rng):
    quiet = PGDAT(InnerPGD(eps=0.15, steps=0, init="zero"))
    net, one = player(WeightPerturbation(radius=0.3, batch_norm=where), quiet)
    fused = make_net(steps=5).train()
    fused(batch.x)
    _run(one, batch, rng, 1)
    same = torch.allclose(net.body[4].running_mean, fused.body[4].running_mean)
    assert same is not perturbed
    assert int(net.body[4].num_batches_tracked) == int(fused.body[4].num_batches_tracked)


@pytest.mark.parametrize("steps", [1, 3])
def test_each_step_costs_a_forward_and_a_backward(steps, player, batch, rng):
    net, one = player(WeightPerturbation(radius=0.01, steps=steps))  # two steps of PGD
    with PassCounter(net) as passes:
        _run(one, batch, rng, 1)
    assert (passes.forwards, passes.backwards) == ((3 + steps) * 32, (3 + steps) * 32)


def test_the_clean_loss_can_be_ascended_instead(player, batch, rng):
    (one, first), (two, second) = player(AWP), player(WeightPerturbation(radius=0.01, loss="clean"))
    _run(first, batch, rng, 1)
    _run(second, batch, rng, 1)
    assert not torch.equal(one.head.weight, two.head.weight)


@pytest.mark.parametrize(
    "options",
    [
        {"radius": -0.1}, {"radius": math.inf}, {"radius": math.nan}, {"scope": "layer"}, {"shape": "cube"},
        {"include": "none"},
        {"steps": -1}, {"step_size": 0.0}, {"loss": "inner"}, {"clip": -1.0}, {"batch_norm": "train"}, {"start": 1.0},
        {"adaptive": True, "shape": "ball"},
    ],
)  # fmt: skip
def test_unfit_options_are_refused_by_name(options):
    with pytest.raises(UserError, match=f"recipe.weight_perturbation.{next(iter(options))}="):
        WeightPerturbation(**options)
