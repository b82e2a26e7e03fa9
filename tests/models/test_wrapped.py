"""A wrapped network sees what its author meant it to see, and gives logits whatever it returns."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image, to_tensor

from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.description import preprocessing
from gauntlet.models.inner_normalization import contradiction
from gauntlet.models.wrapped import Wrapped

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


class Linear(nn.Module):
    """A network that returns its scores in some form."""

    def __init__(self, side, form=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.form = nn.Linear(3 * side * side, 5), form

    def forward(self, x):
        return self.form(self.layer(x.flatten(1)))


def test_pixels_are_normalized_before_the_network():
    network, x = Linear(8), torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(Wrapped(network, MEAN, STD)(x), network((x - mean) / std), atol=1e-6)


@pytest.mark.parametrize(
    "form", [lambda z: {"logits": z, "loss": None}, lambda z: SimpleNamespace(logits=z)], ids=["mapping", "object"]
)
def test_logits_are_taken_out_of_what_holds_them(form):
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(Wrapped(Linear(8, form), [0], [1])(x), Linear(8)(x))


@pytest.mark.parametrize(("form", "said"), [(lambda z: {"scores": z}, "a dict with scores"), (lambda z: (z,), "tuple")])
def test_other_outputs_are_refused_by_what_they_are(form, said):
    with pytest.raises(UserError, match=said):
        Wrapped(Linear(8, form), [0], [1])(torch.rand(2, 3, 8, 8))


def test_resize_and_crop_are_those_of_pillow():
    image = to_tensor(to_pil_image(torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))))
    seen = []
    wrapped = Wrapped(Linear(6, lambda z: z), [0], [1], resize=8, interpolation="bicubic", crop=6)
    wrapped.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    wrapped(image[None])
    pillow = to_tensor(to_pil_image(image).resize((8, 8), 3))[:, 1:7, 1:7]
    assert (seen[0][0].clamp(0, 1) - pillow).abs().max() <= 1.01 / 255  # Pillow rounds to whole levels


def test_grey_images_are_repeated_for_three_constants():
    assert Wrapped(Linear(8), MEAN, STD, channels=1)(torch.rand(2, 1, 8, 8)).shape == (2, 5)


def test_weights_of_the_bare_network_load(tmp_path):
    network = Linear(8)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    other = Wrapped(Linear(8), MEAN, STD)
    with torch.no_grad():
        other.model.layer.weight.zero_()
    checkpoint.load(other, tmp_path / "w.pt")
    assert torch.equal(other.model.layer.weight, network.layer.weight)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resize": 0}, r"model\.resize=0"),
        ({"crop": -1}, r"model\.crop=-1"),
        ({"interpolation": "lanczos"}, "lanczos is unknown"),
        ({"std": [0.0]}, r"model\.std"),
        ({"mean": [0.1, 0.2]}, r"model\.mean has 2 values"),
        ({"network": len}, "not a torch.nn.Module"),
    ],
)
def test_constants_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Wrapped(**({"network": Linear(8), "mean": [0.5], "std": [0.5]} | options))


def test_a_normalization_of_another_package_inside_is_told():
    layer = transforms.Normalize([0.5, 0.25, 0.125], [0.2, 0.3, 0.4])
    told = preprocessing(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)), 3, 2)
    assert told == "mean [0.5, 0.25, 0.125], std [0.2, 0.3, 0.4], by mean and std of Normalize inside"
    assert preprocessing(nn.Sequential(nn.LayerNorm(4), nn.Flatten()), 3, 4) == "as they are"


class Theirs(nn.Module):
    """Normalizes as networks of RobustBench do, or by numbers in its code, or not at all."""

    def __init__(self, names=("mu", "sigma"), used=True):
        super().__init__()
        for name, values in zip(names, (CIFAR_MEAN, CIFAR_STD), strict=False):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.conv, self.used = nn.Conv2d(3, 4, 3), used

    def forward(self, x):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
        x = (x - mean) / std if self.used else x
        return self.conv(nn.functional.pad(x, [1] * 4)).mean((2, 3))


CIFAR_MEAN, CIFAR_STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CIFAR = "mean [0.49, 0.48, 0.45], std [0.25, 0.24, 0.26]"


@pytest.mark.parametrize(("names", "by"), [(("mu", "sigma"), ", by mu and sigma of Theirs"),
                                           (("mean", "std"), ", by mean and std of Theirs"), ((), "")])  # fmt: skip
def test_a_normalization_in_the_code_of_a_network_is_measured(names, by):
    inside = f"normalized inside the model: {CIFAR}{by}"
    assert preprocessing(Theirs(names), 3, 8) == inside
    assert preprocessing(Wrapped(Theirs(names), [0.0], [1.0]), 3, 8) == inside
    assert preprocessing(Wrapped(Theirs(names), [0.0], [1.0], resize=6), 3, 8) == f"resize 6 bilinear, {inside}"
    assert contradiction(Theirs(names), 3, 8) == ""


def test_a_second_normalization_is_told_and_flagged():
    twice = Wrapped(Theirs(), [0.5], [0.5])
    assert preprocessing(twice, 3, 8).startswith("mean [0.5], std [0.5], with what the model does inside mean [0.745")
    line = contradiction(twice, 3, 8)
    assert f"Theirs holds {CIFAR} (mu and sigma) and its first layer gets pixels with mean [0.745, 0.74, 0.725]" in line
    assert "model.mean=[0] model.std=[1]" in line


def test_constants_that_a_network_holds_and_does_not_use_are_told():
    assert preprocessing(Theirs(used=False), 3, 8) == "as they are"
    assert "gets pixels with mean [0, 0, 0], std [1, 1, 1]" in contradiction(Theirs(used=False), 3, 8)
    assert contradiction(Theirs((), used=False), 3, 8) == ""
