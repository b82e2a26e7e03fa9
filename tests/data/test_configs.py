"""conf/dataset is the printed form of the classes: the same fields, the same defaults."""

from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from gauntlet.data.image_dataset import ImageSet

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "dataset"
FILES = sorted(FOLDER.glob("*.yaml"))
OWN = {
    "path": "somewhere", "classes": 3, "size": 32, "channels": 3, "content": "sha256:0",
    "corruption": "fog", "severity": 2, "test": [], "source": "data.py:make",
    "of": {"_target_": "gauntlet.data.parquet.Parquet", "path": "somewhere", "classes": 3, "size": 32},
}  # fmt: skip
"""What a user must give where there is no default."""


def default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _ours(kind: type) -> list[type]:
    """Its subclasses, without those that tests make."""
    return [below for below in kind.__subclasses__() if below.__module__.startswith("gauntlet.")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_yaml_and_class_agree(file):
    content = OmegaConf.to_container(OmegaConf.load(file))
    kind = get_class(content.pop("_target_"))
    defaults = {field.name: default(field) for field in fields(kind)}
    assert content == {name: "???" if value is MISSING else value for name, value in defaults.items()}
    assert {name: type(value) for name, value in content["budgets"].items()} == {
        name: type(value) for name, value in defaults["budgets"].items()
    }
    assert set(content["budgets"]) == {"linf", "l2", "l1"}
    assert content["name"] == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_yaml_makes_the_data_set(file):
    node = OmegaConf.load(file)
    given = {name: value for name, value in OWN.items() if OmegaConf.is_missing(node, name)}
    made = instantiate(OmegaConf.merge(node, given), _convert_="all")
    assert made == get_class(node["_target_"])(**instantiate(given, _convert_="all"))
    assert isinstance(made.budgets, dict)
    OmegaConf.structured(type(made))


def test_every_data_set_has_a_yaml():
    for name in (
        *(
            "array_files",
            "cc1m",
            "corrupted",
            "digits",
            "file_items",
            "given",
            "huggingface",
            "imagefolder",
            "imagenet",
            "natural_images",
            "parquet",
        ),
        *("huggingface", "torch_items", "torchvision_datasets", "webdataset"),
    ):
        import_module(f"gauntlet.data.{name}")
    targets = {OmegaConf.load(file)["_target_"] for file in FILES}
    made: set[type] = set()
    pending: list[type] = [ImageSet]
    while pending:
        below = _ours(pending.pop())
        pending += below
        made |= {kind for kind in below if not _ours(kind)}
    assert {f"{kind.__module__}.{kind.__qualname__}" for kind in made} == targets
