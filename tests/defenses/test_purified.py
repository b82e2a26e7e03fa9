"""A purifier in front of a classifier."""

import pytest
import torch
from torch import nn

from gauntlet.config.validate import build
from gauntlet.errors import UserError
from gauntlet.models.small_denoiser import SmallDenoiser
from gauntlet.threat_model.rng import Rng
from gauntlet.training.objectives.purification import Pipeline, Purifying, RandomTransform

IDS = torch.arange(500)
RNG = Rng(0, IDS, "purified")
X = RNG.uniform((1, 6, 6))


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)


def deployed(purifier, **transform):
    part = {
        "_target_": "gauntlet.training.trained_network.TrainedNetwork", "_recursive_": False,
        "model": {"_target_": "torch.nn.Identity"}, "recipe": {},
    }  # fmt: skip
    node = {"_target_": "gauntlet.defenses.purified.Purified", "parts": {"model": part, "purifier": part}}
    node["transform"] = {"_target_": "gauntlet.training.objectives.purification.RandomTransform", **transform}
    models = {"model": network(), "purifier": purifier}
    return build(node).deploy(models), models["model"]


def test_without_a_transform_and_with_the_identity_it_is_the_network_itself():
    victim, plain = deployed(nn.Identity(), sigma=0.0)
    assert torch.equal(victim.predict(X, RNG), plain(X))
    assert not victim.randomized
    assert {head.draws for head in victim.heads} == {1}


def test_the_heads_differ_in_their_gradients_alone():
    victim, plain = deployed(nn.Hardtanh(0.4, 0.6), sigma=0.2, missing=0.25)
    x, rng = X[:4].clone().requires_grad_(), RNG.select(torch.arange(4))
    true, identity, base = (head.forward(x, rng) for head in victim.heads)
    assert torch.equal(true, identity)
    assert torch.equal(base, plain(x))
    through, around = (torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in (true, identity))
    weight = plain[1].weight.sum(0).reshape(1, 6, 6)
    assert torch.allclose(around, weight.expand_as(x))  # as if nothing stood in front
    hidden = (through == 0).double().mean()
    assert 0.5 < hidden < 1  # where the purifier saturates or the mask hides nothing flows
    assert victim.randomized
    assert [head.draws for head in victim.heads] == [20, 20, 1]


def test_blocks_are_hidden_as_often_as_they_should_be_and_whole():
    kept = RandomTransform(0.0, 0.25, 2).kept(X, RNG)
    blocks = kept.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert (blocks.amax(4) == blocks.amin(4)).all()
    assert kept.mean() == pytest.approx(0.75, abs=3 * (0.25 * 0.75 / 4500) ** 0.5)


def test_a_purifier_of_another_size_is_refused():
    victim, _ = deployed(nn.AvgPool2d(2))
    with pytest.raises(UserError, match=r"the purifier gives \[1, 3, 3\] for images \[1, 6, 6\]"):
        victim.predict(X, RNG)


def test_what_is_trained_is_the_purifier_and_the_classifier_stays():
    torch.manual_seed(0)
    plain, purifier = network(), SmallDenoiser(1, 4, 2)
    objective = Purifying(plain, transform=RandomTransform(0.1), balance=0.5)
    y = torch.zeros(8, dtype=torch.long)
    losses = objective.losses(purifier, X[:8], y, X[:8], RNG.select(torch.arange(8)))
    losses.mean().backward()
    assert losses.shape == (8,)
    assert all(p.grad is not None for p in purifier.parameters())
    assert all(p.grad is None for p in plain.parameters())
    clean = Purifying(plain, transform=RandomTransform(0.0), balance=0.0)
    assert torch.equal(clean.losses(nn.Identity(), X[:8], y, X[:8], RNG), torch.zeros(8))
    assert torch.equal(Pipeline(plain, nn.Identity(), RandomTransform(0.0))(X), plain(X))
    with pytest.raises(UserError, match="defense=purified trains both"):
        Purifying(None)


def test_a_denoiser_gives_images_and_needs_two_layers():
    found = SmallDenoiser(3, 4)(torch.rand(2, 3, 5, 7))
    assert found.shape == (2, 3, 5, 7)
    assert 0 <= found.min() <= found.max() <= 1
    with pytest.raises(UserError, match="depth"):
        SmallDenoiser(3, 4, 1)
