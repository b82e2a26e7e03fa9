"""Every file of conf/model builds the network that it names."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from gauntlet.models.small_cnn import SmallCNN  # noqa: F401  (what model=file makes here)

CONF = Path(__file__).resolve().parents[2] / "conf"
HANDED = ("given",)  # made by Python code: tests/api
NAMES = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem not in HANDED)
DATASET = {"classes": 10, "channels": 3, "size": 32}
SMALL = {"_target_": "gauntlet.models.small_cnn.SmallCNN", **DATASET, "width": 4}
OWN = {
    "wrapped": {"network": SMALL, "mean": [0.5], "std": [0.25]},
    "file": {"source": f"{__file__}:SmallCNN"},
    "timm": {"name": "test_resnet", "resize": 0},
}
"""What a user must give where there is no default."""

PACKAGES = {"timm": "timm"}
"""Model -> the package that it needs beyond the usual installation."""

FILES = ("huggingface", "onnx", "torchscript", "robustbench", "open_clip", "restricted")
"""Models that come from files, for which test_loaders.py builds them, or tests/data/test_natural_images.py."""


def node(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(f"model/{name}")
    OmegaConf.set_struct(cfg, False)
    return OmegaConf.merge(cfg, {"dataset": DATASET, "model": OWN.get(name, {})})


def test_there_are_models():
    assert {"small_cnn", "resnet18", "preact_resnet18", "wrn", "wrn_28_10", "wrn_34_10", "torchvision"} <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FILES])
def test_it_builds(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed: pip install '.[{name}]'")
    with torch.device("meta"):
        model = instantiate(node(name).model, _convert_="all")
        assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_those_of_the_constructor(name):
    cfg = node(name).model
    signature = inspect.signature(get_object(cfg["_target_"])).parameters
    assert list(cfg)[1:] == list(signature) or set(cfg) - {"_target_"} == set(signature)
    if "defaults" in OmegaConf.load(CONF / "model" / f"{name}.yaml"):
        return
    for key, parameter in signature.items():
        if parameter.default is not parameter.empty and key not in (*DATASET, *OWN.get(name, {})):
            value = cfg[key] if not OmegaConf.is_config(cfg[key]) else tuple(cfg[key])
            assert value == parameter.default, key


def test_a_variant_changes_what_its_name_says():
    assert node("resnet50").model.depth == 50
    assert (node("wrn_34_10").model.depth, node("wrn_34_10").model.width) == (34, 10)
