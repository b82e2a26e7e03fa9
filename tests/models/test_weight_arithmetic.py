"""Robust weight signatures: orthogonal to standard training, and patches that come off again."""

import pytest
import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.models.weight_arithmetic import patched, signature


def _net(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    net(torch.rand(8, 1, 3, 3))  # moves the statistics
    return net


def _same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_signature_is_orthogonal_to_what_standard_training_did():
    standard, robust, initial = _net(0), _net(1), _net(2)
    found = signature(robust, standard, initial)
    assert set(found) == {name for name, _ in robust.named_parameters()}
    for name, tensor in found.items():
        along = standard.state_dict()[name] - initial.state_dict()[name]
        assert float((tensor * along).sum()) == pytest.approx(0, abs=1e-5)
    same = signature(standard, standard, initial)
    assert all(tensor.abs().max() < 1e-6 for tensor in same.values())
    unmoved = signature(robust, initial, initial)  # no direction to take away
    plain = signature(robust, initial)
    assert all(torch.allclose(unmoved[name], plain[name]) for name in plain)


def test_a_patch_is_linear_and_none_of_it_changes_no_bit():
    standard, robust, target = _net(0), _net(1), _net(3)
    patch = signature(robust, standard)
    assert _same(patched(target, patch, 0.0), target)
    assert _same(patched(target, patch, 0.0, statistics=robust), target)
    assert torch.equal(patched(standard, patch, 0.5)[1].running_var, standard[1].running_var)
    half = patched(standard, patch, 0.5, statistics=robust)
    assert torch.allclose(half[3].weight, (standard[3].weight + robust[3].weight) / 2)
    assert torch.allclose(half[1].running_var, (standard[1].running_var + robust[1].running_var) / 2)
    first = patched(target, patch, 1.0, ["0"])
    assert torch.allclose(first[0].weight, target[0].weight + robust[0].weight - standard[0].weight)
    assert _same(first[1:], target[1:])
    assert _same(standard, _net(0))


def test_a_negative_variance_is_refused_instead_of_giving_nan():
    standard, robust = _net(0), _net(1)
    robust[1].running_var.mul_(10)
    with pytest.raises(UserError, match="variances of batch norm negative"):
        patched(standard, signature(robust, standard), -1.0, statistics=robust)


def test_what_has_no_place_is_named():
    with pytest.raises(UserError, match="modules names 'layer7', which is no module of the network; it has 0, 1, 3"):
        patched(_net(0), {}, 1.0, ["layer7"])
    with pytest.raises(UserError, match=r"no place for 0\.weight"):
        patched(_net(0), {"0.weight": torch.zeros(2)}, 1.0)
    with pytest.raises(UserError, match="different architectures"):
        signature(nn.Linear(2, 2), _net(0))
