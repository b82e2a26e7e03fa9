"""The average of the weights."""

import pytest
import torch

from gauntlet.errors import UserError
from gauntlet.training.batch_norm import estimating
from gauntlet.training.trainer import TrainingRun
from gauntlet.training.weight_averaging import SWA, Average, Mean


def _train(net, batch):
    with torch.no_grad():
        net.train()(batch.x)  # moves the statistics
        for weight in net.parameters():
            weight += 0.1


def test_no_decay_is_the_network_itself(make_net, batch):
    net = make_net()
    average = Average(net, 0.0)
    for _ in range(3):
        _train(net, batch)
        average.update(net)
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in average.module.state_dict().items())


def test_the_average_of_a_constant_is_the_constant(make_net):
    net = make_net()
    average = Average(net, 0.9)
    for _ in range(5):
        average.update(net)
    assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), net.parameters(), strict=True))


def test_parameters_follow_slowly_and_buffers_at_once(make_net, batch):
    net = make_net()
    average = Average(net, 0.15)
    weight, expected = net.head.weight, net.head.weight.detach().clone()
    for decay in (1 / 10, 0.15, 0.15):  # (1 + t) / (10 + t) is 0.1 and 0.18
        _train(net, batch)
        average.update(net)
        expected = decay * expected + (1 - decay) * weight.detach()
        assert torch.allclose(average.module.head.weight, expected)
    assert torch.equal(average.module.body[1].running_mean, net.body[1].running_mean)
    assert int(average.module.body[1].num_batches_tracked) == 3


def test_the_average_is_apart_from_the_network(make_net):
    net = make_net().train()
    average = Average(net, 0.9)
    assert not any(module.training for module in average.module.modules())
    assert not any(weight.requires_grad for weight in average.module.parameters())
    assert average.module.head.weight.data_ptr() != net.head.weight.data_ptr()
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_updates_leave_the_network_alone(decay, make_net):
    net = make_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Average(net, decay).update(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_mean_of_equal_weights_is_the_weight_and_of_others_their_mean(make_net, batch):
    net = make_net()
    mean = Mean(net)
    for _ in range(5):
        mean.update(net)
    assert all(torch.equal(a, b) for a, b in zip(mean.module.parameters(), net.parameters(), strict=True))
    mean, shown = Mean(net), []
    for _ in range(4):
        _train(net, batch)
        mean.update(net)
        shown.append(net.head.weight.detach().clone())
    assert torch.allclose(mean.module.head.weight, torch.stack(shown).mean(0), atol=1e-6)
    assert torch.equal(mean.module.body[1].running_mean, net.body[1].running_mean)
    assert mean.updates == 4


def test_statistics_are_estimated_as_the_mean_of_the_batches_and_nothing_else_trains(make_net, batch):
    net = make_net(dropout=0.5).eval()
    before = [weight.detach().clone() for weight in net.parameters()]
    with estimating(net):
        assert not net.dropout.training
        for half in batch.x.split(16):
            net(half)
    halves = [net.body[0](half).transpose(0, 1).flatten(1) for half in batch.x.split(16)]
    assert torch.allclose(net.body[1].running_mean, torch.stack([h.mean(1) for h in halves]).mean(0), atol=1e-6)
    assert torch.allclose(net.body[1].running_var, torch.stack([h.var(1) for h in halves]).mean(0), atol=1e-6)
    assert net.body[1].momentum == 0.1
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("images", ["clean", "adversarial"])
def test_from_its_start_on_the_mean_of_the_epochs_is_what_is_kept(images, few, make_net, make_recipe):
    recipe = make_recipe(steps=2, epochs=4, batch_size=25, swa=SWA(start=0.5, images=images, limit=50))
    run, plain = (
        TrainingRun(make_net(), few, r, 0, torch.device("cpu"))
        for r in (recipe, make_recipe(steps=2, epochs=4, batch_size=25))
    )
    ends = []
    for finished in run.steps():
        if finished:
            ends.append(run.model.head.weight.detach().clone())
            assert (run.kept is run.model) == (run.epoch <= 2)
    list(plain.steps())
    assert torch.equal(plain.model.head.weight, run.model.head.weight)
    assert torch.allclose(run.kept.head.weight, (ends[2] + ends[3]) / 2, atol=1e-6)
    assert not torch.equal(run.kept.body[1].running_mean, run.model.body[1].running_mean)
    assert int(run.kept.body[1].num_batches_tracked) == 2


@pytest.mark.parametrize("options", [{"start": 1.0}, {"start": -0.1}, {"images": "test"}, {"limit": 1}])
def test_unfit_averages_are_refused(options, make_recipe):
    with pytest.raises(UserError, match=f"recipe.swa.{next(iter(options))}"):
        SWA(**options)
    with pytest.raises(UserError, match="two averages"):
        make_recipe(ema=0.9, swa=SWA())
