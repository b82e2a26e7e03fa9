"""Players that move parts of the weights in turn."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.training.alternating_updates import Alternation, Phase
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.objective import PGDAT, Standard
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.weight_perturbation import WeightPerturbation


@pytest.fixture
def make_parts(make_net):
    """The small network, with its body and its head as groups."""

    def make(**options):
        net = make_net(**options)
        net.parameter_groups = lambda: {"body": list(net.body.parameters()), "head": list(net.head.parameters())}
        return net

    return make


def _run(net, few, recipe):
    return TrainingRun(net, few, recipe, 0, torch.device("cpu"))


def _values(module):
    return [weight.detach().clone() for weight in module.parameters()]


def _same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_each_phase_moves_its_own_weights_and_no_others(make_parts, few, batch, rng, make_recipe):
    recipe = make_recipe(alternation=Alternation(phases=[Phase(group="body"), Phase(group="head")]))
    net = make_parts().train()
    first, second = _run(net, few, recipe)._players
    body, head = _values(net.body), _values(net.head)
    for weight in net.head.parameters():
        weight.grad = torch.full_like(weight, 7.0)
    first(batch.x, batch.y, rng, 1.0, (0.0, 0.0))
    assert _same(_values(net.head), head)
    assert not _same(_values(net.body), body)
    assert all((weight.grad == 7.0).all() and weight.requires_grad for weight in net.head.parameters())
    body = _values(net.body)
    second(batch.x, batch.y, rng, 1.0, (0.0, 0.0))
    assert _same(_values(net.body), body)
    assert not _same(_values(net.head), head)


def test_a_phase_sees_what_the_one_before_it_left(make_parts, few, make_recipe):
    seen = []

    class Spy(Standard):
        def losses(self, model, x, y, z, rng):
            seen.append((x.clone(), model.body[0].weight.detach().clone(), rng.name))
            return super().losses(model, x, y, z, rng)

    phases = [Phase(group="body", objective=Spy()), Phase(group="head", objective=Spy())]
    net = make_parts()
    before = net.body[0].weight.detach().clone()
    run = _run(net, few, make_recipe(alternation=Alternation(phases=phases)))
    next(run.steps())
    (x, first, left), (again, second, right) = seen
    assert torch.equal(x, again)
    assert torch.equal(first, before)
    assert not torch.equal(second, before)
    assert left.endswith("phase/body")
    assert right.endswith("phase/head")


def test_weights_in_no_phase_stay_as_they_are(make_parts, few, make_recipe):
    net = make_parts()
    before = _values(net.head)
    run = _run(net, few, make_recipe(epochs=1, alternation=Alternation(phases=[Phase(group="body")])))
    assert list(run.steps())[-1]
    assert _same(_values(net.head), before)
    assert run.history.epochs[0].columns.keys() == {"loss/body"}
    assert run.history.epochs[0].columns["loss/body"] == run.history.epochs[0].loss


def test_one_phase_over_everything_is_the_step_without_phases(make_net, few, make_recipe):
    one, two = make_net(), make_net()
    two.parameter_groups = lambda: {"all": list(two.parameters())}
    recipe = make_recipe(epochs=1)
    list(_run(one, few, recipe).steps())
    list(_run(two, few, replace(recipe, alternation=Alternation(phases=[Phase(group="all")]))).steps())
    assert _same(_values(one), _values(two))


def test_a_phase_has_its_own_objective_and_optimizer(make_parts, few, make_recipe):
    attack = PGDAT(InnerPGD(eps=0.15, steps=2))
    phases = [
        Phase(group="body", objective=attack, learning_rate=0.02, momentum=0.5, weight_decay=0.0),
        Phase(group="head"),
    ]
    recipe = make_recipe(epochs=1, learning_rate=0.1, schedule="constant", alternation=Alternation(phases=phases))
    run = _run(make_parts(), few, recipe)
    list(run.steps())
    (first,), (second,) = (player.optimizer.param_groups for player in run._players)
    assert (first["lr"], first["momentum"], first["weight_decay"]) == (0.02, 0.5, 0.0)
    assert (second["lr"], second["momentum"]) == (0.1, 0.9)
    assert (run.history.epochs[0].forwards, run.history.epochs[0].backwards) == (4, 4)


def test_a_phase_is_perturbed_where_it_says_so(make_parts, few, batch, rng, make_recipe):
    phases = [Phase(group="body", perturbed=True), Phase(group="head")]
    recipe = make_recipe(alternation=Alternation(phases=phases), weight_perturbation=WeightPerturbation(radius=0.5))
    plain = replace(recipe, weight_perturbation=None)
    nets = [make_parts(steps=2).train() for _ in range(2)]
    for net, settings in zip(nets, (recipe, plain), strict=True):
        first, _ = _run(net, few, settings)._players
        first(batch.x, batch.y, rng, 1.0, (0.0, 0.0))
    assert not _same(_values(nets[0].body), _values(nets[1].body))
    heads = [make_parts(steps=2).train() for _ in range(2)]
    for net, settings in zip(heads, (recipe, plain), strict=True):
        _, second = _run(net, few, settings)._players
        second(batch.x, batch.y, rng, 1.0, (0.0, 0.0))
    assert _same(_values(heads[0]), _values(heads[1]))


def test_a_stopped_alternation_goes_on_to_the_same_bits(make_parts, few, make_recipe):
    phases = Alternation(phases=[Phase(group="body", perturbed=True), Phase(group="head", learning_rate=0.01)])
    recipe = make_recipe(batch_size=25, alternation=phases, weight_perturbation=WeightPerturbation())
    straight = _run(make_parts(), few, recipe)
    list(straight.steps())
    half = _run(make_parts(), few, recipe)
    steps = half.steps()
    for _ in range(3):
        next(steps)
    rest = _run(make_parts(), few, recipe)
    rest.restore(half.state())
    list(rest.steps())
    assert _same(_values(rest.model), _values(straight.model))


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([], "at least one"),
        ([Phase(group="a"), Phase(group="a")], "each once"),
    ],
)
def test_unfit_phases_are_refused(phases, words):
    with pytest.raises(UserError, match=words):
        Alternation(phases=phases)


@pytest.mark.parametrize("options", [{"learning_rate": -1.0}, {"momentum": -0.1}, {"weight_decay": float("nan")}])
def test_unfit_settings_of_a_phase_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Phase(group="body", **options)


def test_models_without_such_groups_are_refused(make_net, make_parts, few, make_recipe):
    def alternating(group):
        return make_recipe(alternation=Alternation(phases=[Phase(group=group)]))

    with pytest.raises(UserError, match=r"parameter_groups\(\); Net has none"):
        _run(make_net(), few, alternating("body"))
    with pytest.raises(UserError, match="no group router; the model has body, head"):
        _run(make_parts(), few, alternating("router"))
    twice = make_net()
    twice.parameter_groups = lambda: {"a": list(twice.parameters()), "b": list(twice.head.parameters())}
    with pytest.raises(UserError, match="disjoint"):
        _run(twice, few, alternating("a"))
    nothing = nn.Flatten()
    nothing.parameter_groups = lambda: {"a": []}
    with pytest.raises(UserError, match="group a of the model is empty"):
        _run(nothing, few, alternating("a"))
