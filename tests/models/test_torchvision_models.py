"""torchvision's classifiers by name, without the network."""

import re
import urllib.error

import pytest
import torch
from torchvision.models import list_models

import gauntlet.models.torchvision_models as ours
from gauntlet.errors import UserError
from gauntlet.models.torchvision_models import TorchvisionModel


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        TorchvisionModel(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The first of each family; regnet computes its widths with tensors, which the meta device has no values for.
FAMILIES = {re.split(r"[_\d]", name)[0]: name for name in reversed(list_models(module=ours.torchvision.models))}


@pytest.mark.parametrize("name", [name for family, name in FAMILIES.items() if family != "regnet"])
def test_every_family_can_be_built(name):
    size = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        TorchvisionModel(name, 7, size=size)  # the check of the size runs its forward


@pytest.mark.parametrize("name", ["googlenet", "shufflenet_v2_x0_5"])
def test_logits_in_training_too(name):
    model = TorchvisionModel(name, 7, size=32)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_normalisation_is_inside_and_grey_is_repeated():
    grey = torch.rand(2, 1, 32, 32)
    model = TorchvisionModel("resnet18", 10, channels=1, size=32, mean=(0.4,), std=(0.2,)).eval()
    expected = model.model(((grey - 0.4) / 0.2).repeat(1, 3, 1, 1))
    torch.testing.assert_close(model(grey), expected)


def test_the_check_leaves_no_trace():
    torch.manual_seed(0)
    plain = TorchvisionModel("resnet18", 10, size=0)
    after = torch.rand(1)
    torch.manual_seed(0)
    checked = TorchvisionModel("resnet18", 10, size=32)
    assert torch.equal(after, torch.rand(1))
    assert checked.training
    for one, other in zip(plain.state_dict().values(), checked.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_unknown_name_lists_near_ones():
    assert "did you mean resnet18" in refusal("resnet-18", 10)
    assert "did you mean" in refusal("zzz", 10)
    assert "did you mean" in refusal("fasterrcnn_resnet50_fpn", 10)


def test_images_that_do_not_fit():
    with torch.device("meta"):
        assert "vit_b_16 cannot take images of 32x32" in refusal("vit_b_16", 10, size=32)
        assert "alexnet cannot take images of 28x28" in refusal("alexnet", 10, channels=1, size=28)
    assert "1 or 3 channels, not 4" in refusal("resnet18", 10, channels=4)


def test_unknown_weights_list_the_choices():
    assert "IMAGENET1K_V1" in refusal("resnet18", 1000, weights="IMAGENET")


def test_weights_for_another_number_of_classes():
    assert "are for 1000 classes, the data set has 10" in refusal("resnet18", 10, weights="DEFAULT")


@pytest.mark.parametrize("cause", [urllib.error.URLError(OSError("no route to host")), TimeoutError("timed out")])
def test_weights_without_network(monkeypatch, tmp_path, cause):
    def unreachable(*args, **kwargs):
        assert kwargs["timeout"] <= 10
        raise cause

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ours.urllib.request, "urlopen", unreachable)
    message = refusal("resnet18", 1000, weights="DEFAULT")
    assert "cannot be downloaded from https://download.pytorch.org/models/resnet18" in message
    assert "no route" in message or "timed out" in message


def test_damaged_weights_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK cut short")
    assert f"delete {file}" in refusal("resnet18", 1000, weights="IMAGENET1K_V1")


def test_weights_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    trained = TorchvisionModel("squeezenet1_1", 1000, size=0).model.state_dict()
    torch.save(trained, file)
    loaded = TorchvisionModel("squeezenet1_1", 1000, size=64, weights="DEFAULT").model.state_dict()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)
