"""Shapes, sizes and independence of batch-mates of every architecture."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gauntlet.errors import UserError
from gauntlet.models.normalize import Normalize
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.models.resnet import ResNet
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.models.wide_resnet import WideResNet


def parameters(make):
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: SmallCNN(10, 1, 8), 25_978),
        (lambda: SmallCNN(10, 1, 28), 117_882),
        (lambda: ResNet(10), 11_173_962),
        (lambda: ResNet(10, depth=34), 21_282_122),
        (lambda: ResNet(10, depth=50), 23_520_842),
        (lambda: PreActResNet(10), 11_172_170),
        (lambda: PreActResNet(10, depth=34), 21_280_330),
        (lambda: WideResNet(10), 36_479_194),
        (lambda: WideResNet(10, depth=34), 46_160_474),
    ],
)
def test_number_of_parameters(make, count):
    assert parameters(make) == count


@pytest.mark.parametrize(("size", "channels", "count"), [(8, 1, 97_024), (28, 1, 1_749_056), (32, 3, 1_900_544)])
def test_multiply_adds_of_small_cnn(size, channels, count):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        SmallCNN(10, channels, size).eval()(torch.zeros(1, channels, size, size))
    assert counter.get_total_flops() == 2 * count


def test_logits(network):
    model, images = network
    logits = model(images)
    assert logits.shape == (6, 10)
    assert logits.isfinite().all()


def test_an_image_does_not_depend_on_its_batch_mates(network):
    model, images = (part.double() for part in network)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-10)


def test_every_pixel_has_a_gradient(network):
    model, images = network
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(images).square().sum(), images)
    assert (gradient.flatten(1) != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    "make", [lambda: SmallCNN(10, 1, 8), lambda: ResNet(10, width=8), lambda: WideResNet(10, 3, 10, 1)]
)
def test_layers_have_the_names_that_features_are_tapped_by(make):
    children = [name for name, _ in make().named_children()]
    layers = [name for name in children if name.startswith("layer")]
    assert layers == [f"layer{number}" for number in range(1, len(layers) + 1)]
    assert {"stem", "head"} <= set(children)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmallCNN(10, 3, 64), "8, 28 or 32 pixels, not 64"),
        (lambda: SmallCNN(0, 1, 8), "model.classes=0"),
        (lambda: SmallCNN(10, 1, 8, width=1.5), "model.width=1.5"),
        (lambda: ResNet(10, depth=20), "model.depth=20"),
        (lambda: ResNet(10, activation="tanh"), "model.activation=tanh is unknown; choose one of relu, silu, softplus"),
        (lambda: ResNet(10, channels=1), "model.mean has 3 values, the images have 1 channel;"),
        (lambda: ResNet(10, mean=["a", 0, 0]), "model.mean="),
        (lambda: ResNet(10, std=(0.2, 0.2, 0.0)), "greater than 0"),
        (lambda: PreActResNet(10, depth=50), "model.depth=50"),
        (lambda: WideResNet(10, depth=30), "6n + 4"),
        (lambda: WideResNet(10, depth=4), "6n + 4"),
        (lambda: WideResNet(10, width=0), "model.width=0"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(make, message):
    with pytest.raises(UserError) as refusal:
        make()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_normalize():
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = torch.stack([(pixels[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalize(mean, std)(pixels), expected)
    torch.testing.assert_close(Normalize([0.5], [0.25])(pixels), (pixels - 0.5) * 4)


def test_normalize_is_not_in_the_state_dict():
    assert not Normalize((0.5,), (0.5,)).state_dict()


def test_activations_differ():
    pixels = torch.rand(2, 3, 32, 32)
    outputs = []
    for name in ("relu", "silu", "softplus"):
        torch.manual_seed(0)
        model = ResNet(10, width=4, activation=name).eval()
        assert any(isinstance(m, nn.ReLU) for m in model.modules()) == (name == "relu")
        outputs.append(model(pixels))
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
