"""AdvProp and ConAdv: two sets of batch norms that do not touch each other, and attacks on weights of the past."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gauntlet.errors import UserError
from gauntlet.training.auxiliary_norms import AuxiliaryNorms, switched
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.objectives.advprop import AdvPropObjective
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.weight_perturbation import WeightPerturbation

CPU = torch.device("cpu")
PGD = InnerPGD(eps=0.15, steps=1)


def _prepared(net, lag=0, attack=PGD):
    objective = AdvPropObjective(attack, lag)
    objective.prepare(net, None, 0, CPU)
    return objective


def _same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_sets_do_not_touch_each_other(make_net, batch, rng):
    net = make_net(steps=3).train()
    objective = _prepared(net)
    before = [value.clone() for value in net.state_dict().values()]
    names = list(net.state_dict())
    net.eval()
    plain = net(batch.x)
    net.train()
    for _ in range(3):
        with switched(net, objective.auxiliary.norms):
            net(batch.x)
    assert _same(net.state_dict().values(), before)
    assert list(net.state_dict()) == names  # nothing of the second set is in the deployed weights
    assert torch.equal(net.eval()(batch.x), plain)
    assert int(objective.auxiliary.norms[0].num_batches_tracked) == 6  # three of training before it was copied
    F.cross_entropy(net.train()(batch.x), batch.y).backward()
    assert all(weight.grad is None for weight in objective.auxiliary.parameters())
    with switched(net, objective.auxiliary.norms):
        F.cross_entropy(net(batch.x), batch.y).backward()
    assert all(weight.grad is not None for weight in objective.auxiliary.parameters())


def test_the_same_images_through_the_same_norms_are_twice_the_clean_loss(make_net, batch, rng):
    net = make_net(steps=3).train()
    objective = _prepared(net, attack=InnerPGD(eps=0.15, steps=0, init="zero"))
    z = objective.examples(net, batch.x, batch.y, rng)
    assert torch.equal(z, batch.x)
    found = objective.losses(net, batch.x, batch.y, z, rng)
    assert torch.allclose(found, 2 * F.cross_entropy(net(batch.x), batch.y, reduction="none"), atol=1e-5)


def test_the_attack_is_on_the_auxiliary_norms_and_leaves_no_trace(make_net, batch, rng):
    net = make_net(steps=3).train()
    objective = _prepared(net)
    with torch.no_grad():
        for norm in objective.auxiliary.norms:
            norm.weight.mul_(torch.linspace(-1, 1, len(norm.weight)))
    before = [value.clone() for value in [*net.state_dict().values(), *objective.auxiliary.state_dict().values()]]
    z = objective.examples(net, batch.x, batch.y, rng)
    assert _same([*net.state_dict().values(), *objective.auxiliary.state_dict().values()], before)
    assert all(weight.requires_grad for weight in objective.auxiliary.parameters())
    twin = make_net(steps=3)
    for layer, norm in zip([twin.body[1], twin.body[4], twin.body[7]], objective.auxiliary.norms, strict=True):
        layer.load_state_dict(norm.state_dict())
    assert torch.equal(z, PGD(twin, batch.x, batch.y, rng.stream("attack")))


@pytest.mark.parametrize("lag", [1, 3])
def test_the_attacked_weights_are_so_many_steps_old(lag, few, make_net, make_recipe):
    objective = AdvPropObjective(PGD, lag)
    run = TrainingRun(make_net(), few, make_recipe(objective=objective), 0, CPU)
    seen = []
    for number, _ in enumerate(run.steps()):
        seen.append(run.model.head.weight.detach().clone())
        network, _ = objective.auxiliary.attacked(run.model)
        old = seen[number - lag] if number >= lag else None
        assert old is None or torch.equal(network.head.weight, old)
    assert run.history.epochs[0].forwards == 3  # image, example, and the attack on the past


def test_the_live_weights_are_not_read_by_a_lagging_attack(make_net, batch, rng):
    net = make_net(steps=3).train()
    objective = _prepared(net, lag=1)
    with torch.no_grad():
        for weight in [*net.parameters(), *objective.auxiliary.norms.parameters()]:
            weight.fill_(float("nan"))
    assert objective.examples(net, batch.x, batch.y, rng).isfinite().all()


@pytest.mark.parametrize("lag", [0, 2])
def test_a_training_goes_on_from_its_state_to_the_same_bits(lag, few, make_net, make_recipe):
    def fresh():
        recipe = make_recipe(objective=AdvPropObjective(PGD, lag), weight_perturbation=WeightPerturbation())
        return TrainingRun(make_net(0.2), few, recipe, 0, CPU)

    whole, broken, resumed = fresh(), fresh(), fresh()
    list(whole.steps())
    steps = broken.steps()
    for _ in range(3):
        next(steps)
    buffer = io.BytesIO()
    torch.save(broken.state(), buffer)
    resumed.restore(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    list(resumed.steps())
    assert _same(whole.model.state_dict().values(), resumed.model.state_dict().values())
    assert _same(whole._auxiliary.state_dict().values(), resumed._auxiliary.state_dict().values())
    assert not _same(whole._auxiliary.norms.parameters(), fresh()._auxiliary.norms.parameters())  # they train along


def test_what_does_not_fit_is_refused(few, make_net, make_recipe):
    with pytest.raises(UserError, match="the network has none"):
        AuxiliaryNorms(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"recipe\.objective\.lag"):
        AdvPropObjective(PGD, lag=-1)
    with pytest.raises(UserError, match="make this the recipe's objective"):
        _ = AdvPropObjective(PGD).auxiliary
    with pytest.raises(UserError, match=r"runtime\.compile=true"):
        TrainingRun(make_net(), few, make_recipe(objective=AdvPropObjective(PGD)), 0, CPU, compiled=True)
