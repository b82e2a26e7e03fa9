"""Which of this package's classes a configuration may build, and where: those that `conf/` prints, no others.

A configuration may come from somebody else (a preset, the `run.json` of foreign evidence). So a node of ours builds a
declared component alone: of a group, a choice of that group; of a field, what `conf/` prints in a field of that name,
or a class of the type that the field declares. Every other function and class is refused, private ones included.
"""

import functools
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gauntlet.config.shipped import CONF, content

TAKES = {
    "of": "dataset",
    "inner": "attack",
    "stages": "attack",
    "surrogates": "defense",
    "network": "model",
    "noise": "bands",
}
"""Field that takes any choice of a group, or what another field takes -> that group or field. A field named as
a group takes those of that one."""


@functools.cache
def printed() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Return the components that `conf/` prints: by group, and by the field of the node above that they stand in."""
    groups: dict[str, set[str]] = {}
    fields: dict[str, set[str]] = {}
    for path in sorted(Path(CONF).glob("*/*.yaml")):
        for field, name in _names(content(path), ""):
            place = fields.setdefault(field, set()) if field else groups.setdefault(path.parent.name, set())
            place.add(name)
    return tuple({key: frozenset(names) for key, names in them.items()} for them in (groups, fields))  # type: ignore[return-value]


def _names(node: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield each `_target_` with its field; a mapping or a list between a node and another adds no field."""
    if isinstance(node, list):
        for item in node:
            yield from _names(item, field)
    elif isinstance(node, dict):
        if "_target_" in node:
            yield field, node["_target_"]
        inside = "_target_" in node or not field
        for key, value in node.items():
            if key != "defaults":
                yield from _names(value, str(key) if inside else field)


def choices(group: str) -> frozenset[str]:
    """Return the components that a group at the root may be."""
    return printed()[0].get(group, frozenset())


def declared(field: str, name: str, target: Any, hint: Any) -> bool:
    """Return whether a field of a node takes a component of this package.

    Args:
        field: of the node above.
        name: place of the component.
        target: what stands there.
        hint: type of the field.
    """
    groups, fields = printed()
    group = TAKES.get(field, field)
    if name in fields.get(field, ()) or name in groups.get(group, ()) or name in fields.get(group, ()):
        return True
    private = any(piece.startswith("_") for piece in name.split("."))
    return not private and inspect.isclass(target) and any(_is_a(target, kind) for kind in _classes(hint))


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes of this package that a type hint names."""
    if inspect.isclass(hint) and hint.__module__.startswith("gauntlet."):
        yield hint
    for inner in typing.get_args(hint):
        yield from _classes(inner)


def _is_a(target: type, kind: type) -> bool:
    """Return whether a class is, or has all methods and attributes of, the class or interface that a field declares."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(target, kind)
    members = {name for name in (*vars(kind), *kind.__annotations__) if not name.startswith("_") or name == "__call__"}
    return not getattr(target, "_is_protocol", False) and all(hasattr(target, name) for name in members)
