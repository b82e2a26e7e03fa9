"""conf/ is the printed form of the code: a node with a `_target_` lists the fields of its class, with its defaults."""

import dataclasses
import inspect
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from gauntlet.config.shipped import CONF, content

FOLDER = Path(CONF)
CHOICES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml"))


@cache
def composed(choice):
    group, _, name = choice.partition("/")
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [f"{group}={name}"]) if group in ("certifier", "defense") else compose(choice)


def nodes(node, path=""):
    """Every node with a `_target_`, as it is printed."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from nodes(node[key], f"{path}.{key}")


def parameters(target):
    """Name -> default of what the class or function takes."""
    if dataclasses.is_dataclass(target):
        return {
            f.name: f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            for f in dataclasses.fields(target)
            if f.init and not f.metadata.get("internal")
        }
    signature = inspect.signature(target).parameters
    return {name: dataclasses.MISSING if p.default is p.empty else p.default for name, p in signature.items()}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_node_lists_the_fields_of_its_class(choice):
    group = choice.split("/")[0]
    found = list(nodes(composed(choice)[group], group))
    assert found, f"{choice} has no _target_"
    for path, node in found:
        fields = parameters(get_object(node["_target_"]))
        keys = {key for key in node if key not in ("_target_", "_recursive_", "_convert_", "_partial_")}
        assert keys == set(fields), f"{choice}: {path}"


@pytest.mark.parametrize("choice", [c for c in CHOICES if next(iter(content(FOLDER / f"{c}.yaml"))) != "defaults"])
def test_the_base_yaml_of_a_class_prints_its_defaults(choice):
    group, name = choice.split("/")
    node = composed(choice)[group]
    target = get_object(node["_target_"])
    if name != target.__module__.split(".")[-1]:
        pytest.skip(f"a variant of {target.__module__}: only its keys are checked")
    for key, default in parameters(target).items():
        if default is dataclasses.MISSING or OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        value = OmegaConf.to_container(node[key]) if OmegaConf.is_config(node[key]) else node[key]
        if isinstance(value, dict) and any(isinstance(item, dict) for item in value.values()):
            continue  # parts of a defense have no default in the class
        assert value == (list(default) if isinstance(default, tuple) else default), f"{choice}: {key}"


@pytest.mark.parametrize("root", ["run", "train"])
def test_self_comes_first(root):
    assert OmegaConf.load(FOLDER / f"{root}.yaml").defaults[0] == "_self_"


def test_no_run_path_holds_the_overrides():
    assert not [path for path in FOLDER.rglob("*.yaml") if "override_dirname" in path.read_text()]
