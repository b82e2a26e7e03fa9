"""The two players of AdvMoE: each moves its own weights, the router stays finite, and the ablations are recipes."""

import copy
import io
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data import Batch
from gauntlet.errors import UserError
from gauntlet.jobs.training_job import KEYS
from gauntlet.models.moe_small_cnn import MoESmallCNN
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.alternating_updates import Alternation, Phase
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.model_selection import Selection
from gauntlet.training.objectives.mixture_of_experts import MoETRADES, RouterPGD, Routing
from gauntlet.training.objectives.objective import TRADESObjective
from gauntlet.training.recipe import Recipe
from gauntlet.training.trainer import TrainingRun

ABLATIONS = {
    "advmoe": [],
    "frozen": ["recipe=advmoe_frozen_router", "model.standardise=true"],
    "constant": ["recipe=advmoe_frozen_router", "model.router=constant"],
    "label": ["recipe=advmoe_label_route"],
    "vanilla": ["recipe=advmoe_vanilla"],
    "awp": ["+weight_perturbation@recipe.weight_perturbation=awp"],
    "balance": ["recipe.alternation.phases.1.objective.target=balance"],
    "one_expert": ["recipe=advmoe_dense", "model.experts=1"],
    "dense": ["recipe=advmoe_dense", "model=small_cnn"],
}


@pytest.fixture
def mixture():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoESmallCNN(10, 1, 8, width=4, standardise=True)
        for _ in range(3):
            model(torch.rand(16, 1, 8, 8))
    return model


def advmoe(phases=("experts", "router"), **changes):
    attack = RouterPGD(eps=0.15)
    moves = [Phase(group=name, objective=Routing(attack) if name == "router" else None) for name in phases]
    knobs = {
        "objective": MoETRADES(attack),
        "epochs": 2,
        "batch_size": 16,
        "alternation": Alternation(phases=moves),
        "selection": Selection(eps=0.15, steps=2, limit=20),
    }
    return Recipe(**{**knobs, **changes})


def started(model, few, recipe, seed=0):
    return TrainingRun(model, few, recipe, seed, torch.device("cpu"))


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return checked(compose("train", ["recipe=advmoe", "model=moe_small_cnn", *overrides]), KEYS)


def weights_of(model, group):
    return [weight.detach().clone() for weight in model.parameter_groups()[group]]


def same(before, after):
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("moves", "stays"), [("experts", "router"), ("router", "experts")])
def test_a_player_moves_its_own_weights_only(moves, stays, mixture, few):
    run = started(mixture, few, advmoe(phases=(moves,)))
    mine, others = weights_of(mixture, moves), weights_of(mixture, stays)
    next(run.steps())
    assert same(others, weights_of(mixture, stays))
    assert not any(torch.equal(one, other) for one, other in zip(mine, weights_of(mixture, moves), strict=True))
    assert all(weight.grad is None for weight in mixture.parameter_groups()[stays])


def test_the_second_player_attacks_what_the_first_left(mixture, few):
    """With a huge step of the experts, the examples of the router are others than with none."""
    seen = {}
    for rate in (1e-12, 5.0):

        class Watched(Routing):
            def examples(self, model, x, y, rng, factors=None, rate=rate):
                seen[rate] = super().examples(model, x, y, rng, factors)
                return seen[rate]

        attack = RouterPGD(eps=0.15)
        phases = [Phase(group="experts", learning_rate=rate), Phase(group="router", objective=Watched(attack))]
        run = started(copy.deepcopy(mixture), few, advmoe(alternation=Alternation(phases=phases)))
        next(run.steps())
    assert not torch.equal(*seen.values())


def test_examples_lie_in_ball_and_box_and_leave_no_trace(mixture, batch, rng):
    before = copy.deepcopy(mixture.state_dict())
    z = RouterPGD(eps=0.15)(mixture, batch.x, batch.y, rng)
    assert Threat("linf", 0.15).contains(z, batch.x).all()
    assert not z.requires_grad
    assert same(before.values(), mixture.state_dict().values())
    assert mixture.training
    assert all(weight.grad is None and weight.requires_grad for weight in mixture.parameters())
    factors = torch.linspace(0, 1, 32)
    scaled = RouterPGD(eps=0.15)(mixture, batch.x, batch.y, rng, factors)
    assert ((scaled - batch.x).abs().flatten(1).amax(1) <= 0.15 * factors + 1e-6).all()


def test_the_attack_climbs_the_sum_of_both_divergences(mixture, batch, rng):
    model, x = mixture.eval(), batch.x.clamp(0.2, 0.8)
    noise = 0.01 * rng.stream("noise").normal((1, 8, 8))
    leaf = (x + noise).requires_grad_()
    total = 0.0
    for target, value in ((model(x), model.straight_through(leaf)), (model.scores(x), model.scores(leaf))):
        total = total + nn.functional.kl_div(
            value.log_softmax(1), target.detach().log_softmax(1), reduction="none", log_target=True
        ).sum(1)
    (expected,) = torch.autograd.grad(total.sum(), leaf)
    attack = RouterPGD(eps=0.15)
    found = attack._gradient(model, x + noise, batch.y, attack._reference(model, x))
    cosine = nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1))
    assert cosine.min() > 0.9999


def test_with_one_expert_it_is_trades(few):
    """E = 1: the same weights bit for bit as TRADES on the network without a mixture."""
    results = []
    for make, objective in (
        (lambda: MoESmallCNN(10, 1, 8, 4, experts=1, scale=1.0), MoETRADES(RouterPGD(eps=0.15))),
        (
            lambda: SmallCNN(10, 1, 8, 4),
            TRADESObjective(InnerPGD(eps=0.15, steps=2, step_size=0.625, init="normal", loss="kl")),
        ),
    ):
        model = make()
        for number, weight in enumerate(model.parameters()):
            nn.init.uniform_(weight, -0.5, 0.5, generator=torch.Generator().manual_seed(number))
        run = started(model, few, advmoe(objective=objective, alternation=None, epochs=1))
        list(run.steps())
        results.append(list(model.state_dict().values()))
    assert same(*results)


@pytest.mark.parametrize("gap", [104.0, 320.0, 1000.0, 1e6])
@pytest.mark.parametrize("target", ["label_mod", "balance", "none"])
def test_huge_gaps_of_the_scores_give_finite_gradients(gap, target, mixture, batch, rng):
    mixture.router.head.weight.data *= gap
    mixture.router.norm = nn.Identity()
    mixture.router.head.bias.data = torch.tensor([gap, 0.0])
    losses = Routing(RouterPGD(eps=0.15), target=target).loss(mixture, batch.x, batch.y, rng)
    losses.mean().backward()
    assert losses.shape == (32,)
    assert losses.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in mixture.parameter_groups()["router"])


@pytest.mark.parametrize(("gap", "broken"), [(103.0, False), (104.0, True), (320.0, True)])
def test_the_published_loss_of_the_router_breaks_where_ours_does_not(gap, broken):
    """KL to a target that is softmaxed first: once its smallest entry underflows, its gradient is NaN."""
    scores = torch.tensor([[gap, 0.0]], requires_grad=True)
    other = torch.tensor([[0.0, 1.0]])
    loss = nn.functional.kl_div(other.log_softmax(1), scores.softmax(1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.isnan().any() == broken


@pytest.mark.parametrize("images", ["digits", "extreme"])
def test_the_router_stays_finite_for_many_steps(images, few):
    """The published code has NaN in the third batch. Here: a large rate, no batch norm on the scores, 40 steps."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MoESmallCNN(10, 1, 8, width=4)
    attack, data = RouterPGD(eps=0.15), few.split("train").read(range(32))
    x = data.x if images == "digits" else (data.x > 0.5).float() * 1e3
    first, second = MoETRADES(attack), Routing(attack)
    groups = model.parameter_groups()
    optimizers = [torch.optim.SGD(groups[name], lr=0.5, momentum=0.9) for name in ("experts", "router")]
    rng = Rng(0, data.ids, "steps")
    for step in range(40):
        for objective, optimizer in zip((first, second), optimizers, strict=True):
            losses = objective.loss(model, x, data.y, rng.stream(step))
            model.zero_grad()
            losses.mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.eval().scores(x).isfinite().all()
    assert model(x).isfinite().all()


def test_balance_is_low_where_choices_are_sure_and_even():
    objective, y = Routing(RouterPGD(eps=0.1), target="balance"), torch.zeros(4, dtype=torch.long)
    sure = torch.tensor([[50.0, 0], [0, 50.0], [50.0, 0], [0, 50.0]])
    assert objective._target(sure, y).mean() == pytest.approx(-math.log(2), abs=1e-5)
    assert objective._target(sure[[0, 0, 2, 2]], y).mean() == pytest.approx(0, abs=1e-5)
    assert objective._target(torch.zeros(4, 2), y).mean() == pytest.approx(0, abs=1e-5)


def test_routes_of_an_objective(mixture, batch):
    x, y, z = batch.x, batch.y, batch.x.flip(0)
    mixture.eval()
    attack = InnerPGD(eps=0.1, steps=1, init="normal", loss="kl")
    by = {route: MoETRADES(attack, beta=0.0, route=route).losses(mixture, x, y, z, None) for route in
          ("router", "through", "label")}  # fmt: skip
    torch.testing.assert_close(by["router"], by["through"])
    each = torch.stack([nn.functional.cross_entropy(mixture.pathway(x, e), y, reduction="none") for e in range(2)])
    torch.testing.assert_close(by["label"], each[y % 2, torch.arange(32)])
    for route, moved in (("router", False), ("through", True), ("label", False)):
        mixture.zero_grad()
        by[route].mean().backward()
        assert any(w.grad is not None and bool(w.grad.any()) for w in mixture.router.parameters()) == moved


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_is_a_recipe_that_trains(name, few):
    cfg = composed(*ABLATIONS[name], "recipe.epochs=1", "recipe.batch_size=20", "recipe.selection.limit=20")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(cfg.model)
    before = copy.deepcopy(model)
    run = started(model, few, build(cfg.recipe))
    list(run.steps())
    moved = {key: not torch.equal(value, before.state_dict()[key]) for key, value in model.state_dict().items()
             if key in dict(model.named_parameters())}  # fmt: skip
    router = {key for key in moved if key.startswith("router.")}
    assert all(moved[key] for key in moved if key not in router)
    assert any(moved[key] for key in router) == (name in ("advmoe", "label", "vanilla", "balance", "awp"))
    columns = run.history.epochs[0].columns
    loads = [value for key, value in columns.items() if key.startswith("load/")]
    assert sum(loads) == pytest.approx(1) or name == "dense"
    if name == "constant":
        assert loads == [1, 0]


def test_the_recipe_is_that_of_the_paper():
    cfg = composed("recipe=advmoe_cifar", "dataset=cifar10", "model=moe_wrn_28_10")
    recipe = build(cfg.recipe)
    first, second = recipe.alternation.phases
    assert recipe.objective.attack == second.objective.attack == RouterPGD(eps="8/255")
    assert recipe.objective.attack.step_size * 8 == 5
    assert (recipe.objective.beta, second.objective.alpha, second.objective.beta) == (6, 6, 6)
    assert (first.group, second.group) == ("experts", "router")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (100, 128, 0.1, "cosine")
    assert {recipe.weight_decay, second.weight_decay} == {5e-4}


class Noise:
    """Twelve random images of 32x32 pixels."""

    name, classes, ids = "noise", 10, list(range(12))
    channels, size = 3, 32

    def split(self, part):
        return self

    def read(self, positions):
        ids = torch.arange(12)[positions]
        return Batch(ids, Rng(0, ids).uniform((3, 32, 32)), ids % 10)


@pytest.mark.parametrize(
    "model", [["model=moe_resnet18", "model.width=4"], ["model=moe_wrn_28_10", "model.depth=10", "model.width=1"]]
)
def test_the_published_recipe_makes_its_steps(model):
    cfg = composed("recipe=advmoe_cifar", "dataset=cifar10", *model, "recipe.batch_size=6", "recipe.epochs=1")
    torch.manual_seed(0)
    network = build(cfg.model)
    before = copy.deepcopy(network.state_dict())
    run = started(network, Noise(), build(cfg.recipe))
    list(run.steps())
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert not any(torch.equal(before[name], weight) for name, weight in network.named_parameters())
    assert set(run.history.epochs[0].columns) == {"loss/experts", "loss/router", "load/0", "load/1"}


@pytest.mark.parametrize("stop", [1, 8])
def test_a_training_in_phases_goes_on_bit_for_bit(stop, few):
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return MoESmallCNN(10, 1, 8, width=4)

    recipe = advmoe(ema=0.5, crop=1)
    whole = started(make(), few, recipe)
    list(whole.steps())
    broken = started(make(), few, recipe)
    steps = broken.steps()
    for _ in range(stop):
        next(steps)
    file = io.BytesIO()
    torch.save(broken.state(), file)
    file.seek(0)
    resumed = started(make(), few, recipe)
    resumed.restore(torch.load(file, weights_only=True))
    list(resumed.steps())
    for one, other in ((whole.model, resumed.model), (whole.kept, resumed.kept)):
        assert same(one.state_dict().values(), other.state_dict().values())
    assert [e.columns for e in whole.history.epochs] == [e.columns for e in resumed.history.epochs]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RouterPGD(eps=0.1, loss="ce"), "attack.loss=ce"),
        (lambda: RouterPGD(eps=0.1, weight=-1.0), "attack.weight=-1.0"),
        (lambda: MoETRADES(RouterPGD(eps=0.1), route="best"), "objective.route='best'"),
        (lambda: MoETRADES(RouterPGD(eps=0.1), beta=-1.0), "objective.beta=-1.0"),
        (lambda: Routing(RouterPGD(eps=0.1), target="even"), "objective.target='even'"),
        (lambda: Routing(RouterPGD(eps=0.1), alpha=math.nan), "objective.alpha=nan"),
    ],
)
def test_unfit_values_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_another_network_is_refused_in_words(few):
    model = SmallCNN(10, 1, 8)
    with pytest.raises(UserError, match="parameter_groups"):
        started(model, few, advmoe())
    with pytest.raises(UserError, match="group router of the model is empty"):
        started(MoESmallCNN(10, 1, 8, width=4, router="constant"), few, advmoe())
    run = started(model, few, advmoe(alternation=None))
    with pytest.raises(UserError, match="mixture of experts, not SmallCNN"):
        next(run.steps())
