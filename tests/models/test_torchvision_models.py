"""torchvision's classifiers by name, without the network."""

import re
import urllib.error
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.transforms.functional import normalize

import gauntlet.models.torchvision_models as ours
from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.declared_normalization import missing_normalization
from gauntlet.models.description import resizing_lines
from gauntlet.models.torchvision_models import TorchvisionModel
from gauntlet.models.wrapped import Wrapped


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


def put_into_cache(monkeypatch, tmp_path, name, weights, **more):
    """Put random weights where torchvision keeps published ones, and return the network that has them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = get_model_weights(name)[weights]
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, **_: torch.load(file))  # the hash in its name
    file = tmp_path / "hub" / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    network = get_model(name, weights=None, **more)
    torch.save(network.state_dict(), file)
    return network.eval(), entry, file


def photograph(size):
    """An image of whole levels, as pixels and for torchvision's own preprocessing, without rounding between."""
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


DECLARED = {
    "mobilenet_v3_small": ("IMAGENET1K_V1", 256, 224, "bilinear"),
    "swin_t": ("IMAGENET1K_V1", 232, 224, "bicubic"),
    "efficientnet_v2_l": ("IMAGENET1K_V1", 480, 480, "bicubic"),
    "vit_b_16": ("IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_the_network_gets_what_its_weights_declare(name):
    weights, resize, crop, interpolation = DECLARED[name]
    entry = get_model_weights(name)[weights]
    with torch.device("meta"):
        TorchvisionModel(name, 1000, size=260, preprocessing=weights)  # the check of the size runs its forward
    side = 260
    expects = ours.declared_by(entry, name)
    assert (expects.resize, expects.size, expects.interpolation) == (resize, crop, interpolation)
    wrapped = Wrapped(torch.nn.Identity(), **expects.for_images(side, {}))
    seen = torch.cat([wrapped(image[None]) for image in photograph(side)])
    assert seen.shape[-1] == crop
    torch.testing.assert_close(seen, entry.transforms()(photograph(side)), rtol=0, atol=1e-5)
    assert (expects.mean == (0.5, 0.5, 0.5)) == (name == "efficientnet_v2_l")


@pytest.mark.parametrize("words", [{"weights": "DEFAULT"}, {"preprocessing": "DEFAULT"}])
def test_logits_are_those_of_torchvisions_own_preprocessing(monkeypatch, tmp_path, words):
    network, entry, file = put_into_cache(monkeypatch, tmp_path, "squeezenet1_1", "IMAGENET1K_V1")
    model = TorchvisionModel("squeezenet1_1", 1000, size=240, **words).eval()
    if "preprocessing" in words:
        checkpoint.load(model, file)
    with torch.no_grad():
        wanted = network(entry.transforms()(photograph(240)))
        assert (model(photograph(240)) - wanted).abs().max() < 1e-5
        small = TorchvisionModel("squeezenet1_1", 1000, size=224, weights="DEFAULT").eval()(photograph(224))
        normalized = normalize(photograph(224), entry.transforms().mean, entry.transforms().std)
        assert (small - network(normalized)).abs().max() < 1e-5  # preprocessed already
    assert model.preprocessing.startswith("resize 256 bilinear, crop 224, mean [0.485, 0.456, 0.406]")
    assert "IMAGENET1K_V1 of torchvision's squeezenet1_1" in model.preprocessing


def test_inputs_are_transformed_where_published_weights_need_it(monkeypatch, tmp_path):
    """Weights of GoogLeNet and Inception come from TensorFlow, and the networks turn ImageNet's constants into its."""
    assert TorchvisionModel("inception_v3", 1000, size=0, preprocessing="DEFAULT").model.transform_input
    assert not TorchvisionModel("inception_v3", 1000, size=0).model.transform_input


def test_a_published_file_without_its_preprocessing_is_refused(tmp_path):
    file = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    torch.save(TorchvisionModel("squeezenet1_1", 1000, size=0).model.state_dict(), file)
    with pytest.raises(UserError, match=r"holds the weights IMAGENET1K_V1.*add model\.preprocessing=IMAGENET1K_V1"):
        checkpoint.load(TorchvisionModel("squeezenet1_1", 1000, size=64), file)
    checkpoint.load(TorchvisionModel("squeezenet1_1", 1000, size=64, preprocessing="DEFAULT", resize=0), file)


def test_other_constants_than_declared_are_flagged():
    model = TorchvisionModel("squeezenet1_1", 10, size=64, preprocessing="DEFAULT", resize=0, mean=[0.5], std=[0.5])
    (line,) = missing_normalization(model.eval(), model, 3, 64)
    assert "declares mean [0.485, 0.456, 0.406]" in line
    model = TorchvisionModel("squeezenet1_1", 10, size=64, preprocessing="DEFAULT", resize=0)
    assert missing_normalization(model.eval(), model, 3, 64) == []


def test_photographs_that_the_data_set_resizes_otherwise_are_told():
    model = TorchvisionModel("resnet50", 1000, size=0, preprocessing="IMAGENET1K_V2")
    data = SimpleNamespace(size=224, resize=256, interpolation="bilinear")
    (line,) = resizing_lines(model, data)
    assert "takes photographs resized to 232 bilinear" in line
    assert "add dataset.resize=232 dataset.interpolation=bilinear" in line
    data.resize = 232
    assert resizing_lines(model, data) == []
    data.resize = None
    assert resizing_lines(model, data) == []


def test_features_without_a_classifier_are_refused():
    assert "are for 0 classes" in refusal("vgg16", 1000, weights="IMAGENET1K_FEATURES")


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
