"""The average of the weights."""

import pytest
import torch

from training.averaging import Average


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
