"""What a run says of its model: its name, and what the user adds to it."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.manifest_update import amend
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import first_name

DESCRIPTION = ("name", "paper", "authors", "link", "extra_data")
"""Keys at the root with free text about the model, without effect on the result."""

NAMES = ("name", "model_name", "source", "path", "kind")
"""Arguments of a model that tell which one it is, the first that is there."""


def description(cfg: DictConfig) -> Manifest:
    """Return what the user says of the model, for the record; empty where nothing is said."""
    said = {key: cfg[key] for key in DESCRIPTION[1:] if cfg.get(key) is not None}
    return Manifest(description=said) if said else Manifest()  # type: ignore[typeddict-item]


def described_anew(run: RunFolder, recorded: Manifest, mine: Manifest) -> Manifest:
    """Return the manifest of a run that is there, with what this command says of the model in place of what it said.

    Args:
        recorded: as on disk.
        mine: as this process would have begun the run.
    """
    said = {key: value for key in DESCRIPTION if (value := mine["config"].get(key)) is not None}
    if all(recorded["config"].get(key) == value for key, value in said.items()):
        return recorded

    def change(manifest: Manifest) -> None:
        manifest["name"]["model"] = mine["name"]["model"]
        manifest["config"], manifest["command"] = mine["config"], mine["command"]  # one gives the other
        manifest.update(Manifest(description=mine["description"]) if "description" in mine else Manifest())

    return amend(run, change)


def model_name(cfg: DictConfig, choices: Mapping[str, str]) -> str:
    """Return the name of the model: as the user gave it, else from its architecture and its files."""
    if cfg.get("name") is not None:
        return str(cfg.name)
    node: Any = cfg.model
    pieces = [choices.get("model", first_name(str(node["_target_"])).split(".")[-1].lower())]
    inner = node.get("network")
    if pieces[0] in ("file", "given"):
        pieces = []
    if isinstance(inner, DictConfig) and "_target_" in inner:
        pieces = [_maker(str(inner["_target_"]))]
        node = inner
    stated = next((str(node[key]) for key in NAMES if isinstance(node.get(key), str)), "")
    if stated:
        pieces.append(PurePath(stated).name)
    if cfg.checkpoint not in (None, "included"):
        pieces.append(PurePath(cfg.checkpoint).stem)
    return " ".join(dict.fromkeys(pieces))


def _maker(target: str) -> str:
    """Return the name of a class or function, and of a method of a class, such as `from_name`, that of the class."""
    *_, above, last = f".{target}".split(".")
    return above if above[:1].isupper() and not last[:1].isupper() else last
