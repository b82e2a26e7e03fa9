"""RiFT chooses its share by validation; a weight patch is refused where its first weights are unknown."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gauntlet.data.digits import Digits
from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.rift import RobustCriticalTuning
from gauntlet.defenses.weight_patch import WeightPatch
from gauntlet.errors import UserError
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.trained_network import TrainedNetwork

PART = TrainedNetwork({"_target_": "gauntlet.models.small_cnn.SmallCNN", "classes": 10, "channels": 1, "size": 8}, {})
RIFT = RobustCriticalTuning(
    parts={"robust": PART, "tuned": PART}, attack=InnerPGD(eps=0.05, steps=2), limit=100, drop=0.0
)
PATCH = WeightPatch(parts={"standard": PART, "robust": PART})


def _linear(weight):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.zero_()
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return FittingImages(Digits(), torch.device("cpu"))


@pytest.fixture(scope="module")
def means():
    """Weights that rate a digit by its likeness to the mean of its class."""
    batch = Digits().split("train").read(slice(0, 500))
    flat = batch.x.flatten(1)
    return torch.stack([flat[batch.y == k].mean(0) - flat.mean(0) for k in range(10)])


def test_a_tuned_network_that_loses_is_left_and_one_that_wins_is_taken(images, means):
    good, bad = _linear(means), _linear(-means)
    for robust, tuned, expected in ((good, bad, 0.0), (bad, good, 1.0)):
        (network,) = RIFT.fitted({"robust": robust, "tuned": tuned}, images).modules
        weight = network[1].weight
        along = (weight * robust[1].weight).sum() / robust[1].weight.square().sum()
        share = float((1 - along) / 2)
        assert share == pytest.approx(0, abs=0.01) if expected == 0 else share > 0.5
        if expected == 0:
            assert torch.equal(weight, robust[1].weight)


def test_a_given_share_needs_no_images(images, means):
    models = {"robust": _linear(means), "tuned": _linear(2 * means)}
    for victim in (replace(RIFT, share=0.5).deploy(models), replace(RIFT, share=0.5).fitted(models, images)):
        assert torch.allclose(victim.modules[0][1].weight, 1.5 * means)
    with pytest.raises(UserError, match="share=null is chosen on validation images"):
        RIFT.deploy(models)
    with pytest.raises(UserError, match=r"defense\.share"):
        replace(RIFT, share=1.5)


def test_a_patch_goes_to_the_target_and_with_none_of_it_nothing_changes(means):
    models = {"standard": _linear(means), "robust": _linear(3 * means), "target": _linear(-means)}
    parts = {"standard": PART, "robust": PART, "target": PART}
    (network,) = replace(PATCH, parts=parts, share=0.5).deploy(models).modules
    assert torch.allclose(network[1].weight, torch.zeros(10, 64), atol=1e-6)
    with pytest.raises(UserError, match=r"defense\.modules names 'stem', which is no module"):
        replace(PATCH, modules=["stem"]).deploy(models | {"target": _linear(means)})
    (network,) = replace(PATCH, share=0.0).deploy(models | {"target": _linear(means)}).modules
    assert torch.equal(network[1].weight, means)


def test_first_weights_that_nobody_knows_are_refused():
    assert replace(PATCH, projected=True).projected
    for other in (replace(PART, seed=1), replace(PART, weights="robust.safetensors")):
        with pytest.raises(UserError, match="projected=true needs the first weights") as caught:
            replace(PATCH, parts={"standard": PART, "robust": other}, projected=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="must be standard, robust"):
        WeightPatch(parts={"model": PART})


def test_the_component_of_standard_training_is_taken_away():
    standard = PART.first_network()
    robust = PART.first_network()
    with torch.no_grad():
        standard.head[1].weight += 1.0
        robust.head[1].weight += 3.0
    models = {"standard": standard, "robust": robust}
    (network,) = replace(PATCH, projected=True, share=1.0).deploy(models).modules
    assert torch.allclose(network.head[1].weight, standard.head[1].weight, atol=1e-5)
