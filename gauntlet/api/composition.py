"""From the arguments of a Python call to the configuration that the command line would have composed."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from gauntlet.api.inputs import InputError
from gauntlet.cluster.sweep_overrides import missing_choice
from gauntlet.commands.terminal import one_line
from gauntlet.config.shipped import CONF
from gauntlet.training.trained_network import TrainedNetwork


@dataclass
class Composition:
    """What a call adds up to, before it is composed.

    Attributes:
        words: overrides as on the command line.
        nodes: full key -> value or mapping that is merged there, after composing.
        objects: digest -> object that the caller hands in.
        names: group -> how the folders call what was handed in.
        networks: of the caller's, which come back as they were.
        trusted: packages of the caller's objects.
    """

    words: list[str] = field(default_factory=list)
    nodes: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    networks: list[nn.Module] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """Return the configuration, and group -> name of each choice.

        Args:
            overrides: further words of the caller's.

        Raises:
            InputError: a choice or an option does not exist.
        """
        cfg = composed([*self.words, *overrides])
        chosen = cfg.hydra.runtime.choices
        choices = {group: str(name) for group, name in chosen.items() if name and "/" not in group and "@" not in group}
        OmegaConf.set_readonly(cfg, False)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        for key, value in self.nodes.items():
            OmegaConf.update(cfg, key, value, merge=isinstance(value, Mapping) and "_target_" not in value)
        cfg.trusted_packages = [*dict.fromkeys([*cfg.trusted_packages, *self.trusted])]
        return cfg, choices | self.names


def composed(words: Sequence[str]) -> DictConfig:
    """Return what the command line would compose from these words, with Hydra's own node.

    Raises:
        InputError: a choice or an option does not exist, or a word cannot be read.
    """
    try:
        with _own_hydra(), initialize_config_dir(CONF, version_base=None):
            return compose("run", list(words), return_hydra_config=True)
    except MissingConfigException as cause:
        group, _, choice = (cause.missing_cfg_file or "").rpartition("/")
        raise InputError(missing_choice(group, choice, cause.options or ())) from None
    except (HydraException, OmegaConfBaseException) as cause:
        raise InputError(one_line(cause)) from None


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Let this call compose in a process whose program uses Hydra itself, and leave that as it was."""
    program, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = program
        HydraConfig.instance().cfg = config


def node_of(thing: Any) -> Any:
    """Return the configuration of a component that was built in Python: `_target_`, and its fields.

    Raises:
        InputError: it is of a class that no configuration can name.
    """
    if isinstance(thing, Mapping):
        return {key: node_of(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [node_of(value) for value in thing]
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return os.fspath(thing) if isinstance(thing, Path) else thing
    kind = type(thing)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise InputError(f"the class {kind.__qualname__} cannot be named by a record; move it to a module of its own")
    fields = {
        each.name: node_of(getattr(thing, each.name))
        for each in dataclasses.fields(thing)
        if each.init and not each.metadata.get("internal")
    }
    raw = {"_recursive_": False} if isinstance(thing, TrainedNetwork) else {}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **raw, **fields}


def package_of(thing: Any) -> list[str]:
    """Return the package of an object's class, where it is not this one."""
    package = type(thing).__module__.split(".")[0]
    return [] if package in ("gauntlet", "builtins") else [package]
