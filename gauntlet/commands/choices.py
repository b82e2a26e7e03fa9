"""The choices of every group, each with one line about it: the first comment of its YAML. No torch here."""

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource

from gauntlet.config.shipped import CONF

KINDS = {
    "gauntlet.attacks.gauntlet": "suites",
    "gauntlet.attacks.suite": "suites",
    "gauntlet.attacks.black_box": "black box",
    "gauntlet.attacks.minimum_norm": "minimum norm",
    "gauntlet.attacks.transfer": "transfer",
    "gauntlet.transfer": "transfer",
    "gauntlet.attacks.universal": "universal",
    "gauntlet.attacks.randomized_ensemble": "randomized ensembles",
    "gauntlet.attacks": "gradient",
}
"""Place of an attack's class, the nearest first -> its kind."""

LARGEST = 1 << 20
"""Bytes of a YAML that are read."""


class GroupChoice(NamedTuple):
    """A choice of a group.

    Attributes:
        name: as it is typed.
        about: one line.
        kind: of an attack; "" in other groups.
        own: whether it is the user's.
    """

    name: str
    about: str
    kind: str = ""
    own: bool = False

    @property
    def recommended(self) -> bool:
        """Return whether its line says so."""
        return "recommended" in self.about


def choices(loader: ConfigLoader, group: str) -> list[GroupChoice]:
    """Return the choices of a group, those in the user's own folders included.

    Args:
        loader: whose search path is set.
        group: such as "attack", or "hydra/launcher"; folders in it hold choices of it, as `folder/name`.
    """
    return [_choice(loader, group, name) for name in _names(loader, group)]


def _names(loader: ConfigLoader, group: str, depth: int = 4) -> list[str]:
    """Return the names of a group, with those of its folders as `folder/name`."""
    found = sorted(loader.get_group_options(group, ObjectType.CONFIG))
    if depth:
        for folder in sorted(loader.list_groups(group)):
            found += [f"{folder}/{name}" for name in _names(loader, f"{group}/{folder}", depth - 1)]
    return found


def _choice(loader: ConfigLoader, group: str, name: str) -> GroupChoice:
    text, own = _text(loader, f"{group}/{name}.yaml")
    first = text.partition("\n")[0]
    target = _target(loader, group, text)
    about = first.lstrip("# ") if first.startswith("#") else target
    return GroupChoice(name, " ".join(about.split()), _kind(target) if group == "attack" else "", own)


def _text(loader: ConfigLoader, path: str) -> tuple[str, bool]:
    """Return what a file of the search path says, and whether it is the user's; "" where it cannot be read."""
    for source in loader.get_sources():
        for file in _files(source, path):
            with file.open("rb") as stream:
                return stream.read(LARGEST).decode(errors="replace"), source.path != CONF
    return "", False


def _files(source: ConfigSource, path: str) -> Iterator[Path]:
    """Yield the file of a source at a path, where there is one; those of Hydra itself are left out."""
    if source.scheme() == "pkg" and source.path.split("/")[0] not in ("hydra", "hydra_plugins"):
        folder = resources.files(source.path.replace("/", "."))
    elif source.scheme() == "file":
        folder = Path(source.path)
    else:
        return
    file = folder.joinpath(path)
    if isinstance(file, Path) and file.is_file():
        yield file


def _target(loader: ConfigLoader, group: str, text: str, depth: int = 8) -> str:
    """Return which class a YAML builds, in its own words or in those of the choice that it starts from."""
    if found := re.search(r"^_target_:\s*([\w.]+)", text, re.MULTILINE):
        return found[1]
    base = re.match(r"(?:#.*\n|\s)*defaults:[^\n\w]*(?:#.*)?\s*(?:-\s*)?(\w+)\s*(?:[,\]#\n]|$)", text)
    if not base or base[1] == "_self_" or not depth:
        return ""
    return _target(loader, group, _text(loader, f"{group}/{base[1]}.yaml")[0], depth - 1)


def _kind(target: str) -> str:
    for place, kind in KINDS.items():
        if target.startswith(f"{place}."):
            return kind
    return "your own"
