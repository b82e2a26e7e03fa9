"""The model of docs/models.md is reached by `_target_`, as the page says."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from gauntlet.config.validate import build, checked
from gauntlet.data.digits import Digits
from gauntlet.errors import UserError
from gauntlet.models.batchnorm_folding import folded
from gauntlet.training.trained_network import TrainedNetwork

RECIPE = {
    "_target_": "gauntlet.training.recipe.Recipe",
    "objective": {"_target_": "gauntlet.training.objectives.objective.Standard"},
    "selection": None,
}

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = OmegaConf.create(block("yaml"))
    dataset = {"_target_": "gauntlet.data.digits.Digits", "classes": 10, "size": 8}
    return OmegaConf.create({"dataset": dataset, "model": model, "trusted_packages": ["mine"]})


def test_it_gives_logits(cfg):
    model = build(checked(cfg, list(cfg)).model)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_it_has_to_be_trusted(cfg):
    cfg.trusted_packages = []
    with pytest.raises(UserError, match=re.escape("trusted_packages=[mine]")):
        checked(cfg, list(cfg))


def test_its_fields_are_checked(cfg):
    cfg.model.seed = "abc"
    with pytest.raises(UserError, match=r"model\.seed=abc"):
        checked(cfg, list(cfg))


def test_public_networks(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "models"))
    node = {"_target_": "networks.load", "name": "at_resnet2b"}
    cfg = OmegaConf.create({"model": node, "trusted_packages": ["networks"]})
    model = build(checked(cfg, list(cfg)).model)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_networks_of_torchscript_are_taken(tmp_path, monkeypatch):
    (tmp_path / "scripted.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)\n"
        "    return nn.Sequential(*layers).eval()\n"
        "def script():\n"
        "    return torch.jit.script(make())\n"
        "def trace():\n"
        "    return torch.jit.trace(make(), torch.rand(2, 1, 8, 8))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    x, answers = torch.rand(3, 1, 8, 8), []
    for name in ("make", "script", "trace"):
        part = TrainedNetwork(model={"_target_": f"scripted.{name}"}, recipe=RECIPE, weights="included")
        part.check_source()
        module = part.load(Digits(), tmp_path).module
        y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
        module(y).logsumexp(1).sum().backward()
        folded(module)(z).logsumexp(1).sum().backward()
        torch.testing.assert_close(y.grad, z.grad)
        answers.append(y.grad)
    torch.testing.assert_close(answers[1], answers[0])
    torch.testing.assert_close(answers[2], answers[0])


def test_weights_of_the_meta_device_are_refused(tmp_path):
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 10, "device": "meta"}
    part = TrainedNetwork(model=node, recipe=RECIPE)
    with pytest.raises(UserError, match=r"tensors without values \(device meta\): weight, bias; build it on the CPU"):
        part.load(Digits(), tmp_path)


@pytest.mark.parametrize(
    ("node", "drawn"),
    [
        ({"_target_": "gauntlet.models.small_cnn.SmallCNN"}, True),
        ({"_target_": "gauntlet.models.torchvision_models.TorchvisionModel", "weights": None}, True),
        ({"_target_": "gauntlet.models.torchvision_models.TorchvisionModel", "weights": "DEFAULT"}, False),
        ({"_target_": "gauntlet.models.wrapped.Wrapped", "network": {"_target_": "mine.net"}}, False),
        ({"_target_": "gauntlet.models.wrapped.Wrapped", "network": {"_target_": "gauntlet.models.x.Y"}}, True),
        ({"_target_": "mine.net"}, False),
    ],
)
def test_random_weights_are_not_included(node, drawn):
    part = TrainedNetwork(model=node, recipe=RECIPE, weights="included")
    with pytest.raises(UserError, match="is built with random weights; give") if drawn else nullcontext():
        part.check_source()
