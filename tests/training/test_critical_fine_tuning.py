"""RiFT: criticality within its ball, one module that is tuned, and interpolation with exact ends."""

import pytest
import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.models.weight_arithmetic import interpolated
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.module_criticality import Criticality, layers, least_critical
from gauntlet.training.objectives.critical_fine_tuning import RiFT
from gauntlet.training.trainer import TrainingRun

PGD = InnerPGD(eps=0.15, steps=2)
CRITICALITY = Criticality(steps=3, limit=50)


@pytest.fixture
def examples(few, make_net):
    net = make_net(steps=5)
    return CRITICALITY.examples(net, PGD, few.split("validation"), 0, torch.device("cpu"))


def _values(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_criticality_is_a_rise_within_the_ball_and_leaves_no_trace(examples, make_net, monkeypatch):
    net, (z, y) = make_net(steps=5).train(), examples
    before, sizes = _values(net), []
    ascend = Criticality._ascend

    def spy(self, weights, origin, gradients, size):
        ascend(self, weights, origin, gradients, size)
        sizes.append((float((weights[0] - origin[0]).detach().norm()), float(origin[0].norm())))

    monkeypatch.setattr(Criticality, "_ascend", spy)
    assert len(z) == 50
    assert CRITICALITY(net, net.body[0], z, y) > 0
    assert all(moved <= 0.1 * size * (1 + 1e-5) for moved, size in sizes)
    assert sizes[0][0] == pytest.approx(0.025 * sizes[0][1], rel=1e-4)  # a step is a quarter of the radius
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.requires_grad for weight in net.parameters())
    assert net.training
    assert CRITICALITY(nn.Sequential(net, nn.Identity()), net.head, z, y) >= 0


def test_a_convolution_before_batch_norm_is_as_critical_at_any_scale(examples, make_net):
    (z, y), net, scaled = examples, make_net(steps=5).double(), make_net(steps=5).double()
    norm = scaled.body[1]
    with torch.no_grad():
        scaled.body[0].weight *= 5
        norm.running_mean *= 5
        norm.running_var.copy_(25 * (norm.running_var + norm.eps) - norm.eps)
    found = [CRITICALITY(one, one.body[0], z.double(), y) for one in (net, scaled)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_least_critical_module_is_tuned_and_nothing_else(few, make_net, make_recipe):
    robust = make_net(steps=5)
    before, objective = _values(robust), RiFT(PGD, CRITICALITY, robust=robust)
    measured = objective.measured(robust, few.split("validation"), 0, torch.device("cpu"))
    assert list(measured) == ["body.0", "body.3", "body.6", "head"]
    run = TrainingRun(make_net(), few, make_recipe(objective=objective, batch_size=50), 0, torch.device("cpu"))
    list(run.steps())
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    least = least_critical(measured)
    assert changed == {name for name in before if name.startswith(f"{least}.")}
    assert all(torch.equal(value, before[name]) for name, value in robust.state_dict().items())


def test_what_cannot_be_tuned_is_refused_in_one_line(few, make_net, make_recipe):
    def begun(objective):
        TrainingRun(make_net(), few, make_recipe(objective=objective), 0, torch.device("cpu"))

    for objective, words in (
        (RiFT(PGD), "goes on with a robust network; use defense=rift"),
        (RiFT(PGD, robust=nn.Linear(2, 2)), "give both parts one model"),
        (RiFT(PGD, module="body.9", robust=make_net()), "recipe.objective.module names 'body.9', which is no module"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            begun(objective)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no convolution or linear layer"):
        least_critical(dict(layers(nn.ReLU())))
    for options in ({"radius": 0.0}, {"steps": 0}, {"step_size": 0.0}, {"limit": 0}):
        with pytest.raises(UserError, match=f"recipe.objective.criticality.{next(iter(options))}"):
            Criticality(**options)


def test_the_ends_of_an_interpolation_are_exact_and_its_middle_is_linear(make_net):
    one, two = make_net(), make_net(steps=3)
    for share, end in ((0.0, one), (1.0, two)):
        found = interpolated(one, two, share).state_dict()
        assert all(torch.equal(found[name], value) for name, value in end.state_dict().items())
    middle = interpolated(one, two, 0.3)
    assert torch.allclose(middle.head.weight, 0.7 * one.head.weight + 0.3 * two.head.weight)
    assert torch.allclose(middle.body[1].running_var, 0.7 * one.body[1].running_var + 0.3 * two.body[1].running_var)
    assert middle.body[1].num_batches_tracked == one.body[1].num_batches_tracked
    with pytest.raises(UserError, match="different architectures"):
        interpolated(one, nn.Linear(2, 2), 0.5)
