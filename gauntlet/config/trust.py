"""What a composition may hold of Hydra's own, and who says which packages are trusted. Imports no torch.

Hydra calls what its own nodes name (callbacks, launcher, sweeper, formatters and handlers of logging), and most of that
before the program sees its configuration. A preset of somebody else may lie in a search path of the user's. So every
composition is checked as it is made: the command line and the configuration file that the user starts with may say what
is trusted and set Hydra's options; no other file may.
"""

import functools
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError

TRUST = "trusted_packages"

CALLED = {
    "launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    ),
    "sweeper": ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper",),
    "callbacks": ("gauntlet.cluster.sweep_jobs.Announce",),
}
"""Node of Hydra's -> what it may call."""

LOGGING = (
    "logging.Formatter", "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler",
    "logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler", "colorlog.ColoredFormatter",
)  # fmt: skip
"""Classes that a logging configuration may name."""

LOADED = {"_target_", "()", "class", "factory"}
"""Keys whose value names code."""

_words: ContextVar[Sequence[str]] = ContextVar("_words", default=())
"""Of the composition at work."""


def guard() -> None:
    """Have every composition of this process checked: the files as they are read, Hydra's nodes before it uses them."""
    load, read = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl._load_single_config
    if getattr(load, "guarded", False):
        return

    @functools.wraps(load)
    def load_configuration(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *more: Any, **named: Any
    ) -> DictConfig:
        before = _words.set(overrides)
        try:
            cfg = load(self, config_name, overrides, *more, **named)
        finally:
            _words.reset(before)
        check_hydra(cfg.hydra)
        return cfg

    @functools.wraps(read)
    def load_single_config(self: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> ConfigResult:
        result = read(self, default, repo)
        check_file(default, result, _words.get())
        return result

    load_configuration.guarded = True  # type: ignore[attr-defined]
    setattr(ConfigLoaderImpl, "load_configuration", load_configuration)  # noqa: B010 - mypy forbids to assign methods
    setattr(ConfigLoaderImpl, "_load_single_config", load_single_config)  # noqa: B010


def check_file(default: ResultDefault, file: ConfigResult, words: Sequence[str]) -> None:
    """Refuse a file that sets what only the user may set.

    Args:
        default: what the file is in the composition.
        file: its folder, and its content at its place in the whole.
        words: of the command line.

    Raises:
        UserError: it sets trust or Hydra's options, and is neither the program's nor the one that the user starts with.
    """
    source = file.path
    if default.primary or _own(source):
        return
    path = default.config_path or ""
    group = path.rpartition("/")[0]
    if path.startswith("hydra/"):
        if not any(word.lstrip("+~").partition("=")[0] == group for word in words):
            raise UserError(f"{path}.yaml of {source} is not asked for on the command line; give {group}=NAME there")
        return
    for key in (TRUST, "hydra"):
        if isinstance(file.config, DictConfig) and key in file.config:
            raise UserError(
                f"{path}.yaml of {source} sets {key}, which only the command line and the file given by --config-name "
                "may; set it there if you mean it"
            )


def _own(source: str) -> bool:
    """Return whether a folder of configurations comes with this program or with Hydra."""
    scheme, _, place = source.partition("://")
    if scheme == "pkg":
        return place.split(".")[0] in ("hydra", "hydra_plugins")
    return scheme == "structured" or place == CONF


def check_hydra(node: DictConfig) -> None:
    """Refuse code in Hydra's own nodes that the program does not know.

    Raises:
        UserError: with the key and what is named there.
    """
    for name, known in CALLED.items():
        inner = OmegaConf.to_container(node, resolve=False).get(name)  # type: ignore[union-attr]
        for key, value in _loaded(inner, f"hydra.{name}", {"_target_"}):
            if value not in known:
                raise UserError(f"{key}={value} is not known; gauntlet calls only {', '.join(known)} there")
    for name in ("job_logging", "hydra_logging"):
        for key, value in _loaded(OmegaConf.to_container(node[name], resolve=False), f"hydra.{name}", LOADED):
            if value not in LOGGING or not key.endswith("class"):
                raise UserError(f"{key}={value} is not known; a logging configuration names only {', '.join(LOGGING)}")


def _loaded(node: Any, path: str, keys: set[str]) -> list[tuple[str, str]]:
    """Return each key that names code, with what it names; an `ext://` counts as such a key."""
    if isinstance(node, dict):
        here = [(f"{path}.{key}", str(value)) for key, value in node.items() if key in keys]
        return here + [it for key, value in node.items() for it in _loaded(value, f"{path}.{key}", keys)]
    if isinstance(node, list):
        return [it for number, item in enumerate(node) for it in _loaded(item, f"{path}[{number}]", keys)]
    text = str(node)
    return [(path, text)] if text.startswith("ext://") and text not in ("ext://sys.stdout", "ext://sys.stderr") else []
