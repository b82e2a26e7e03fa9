"""Values of a configuration against the type hints of the fields that take them."""

import dataclasses
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Mapping, Sequence, Set
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gauntlet.errors import UserError

PRIMITIVES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
"""Hints whose values are written as they are, in words."""


def typed(path: str, value: Any, hint: Any) -> Any:
    """Return the value with the type of its hint; the items of lists and mappings are converted in place.

    Hints of other kinds (a class, a Literal, Any) are left to the constructor.

    Args:
        path: full key of the value, for the message.
        value: a scalar, or an OmegaConf container.

    Raises:
        UserError: the value does not fit.
    """
    options = _options(hint)
    kinds = [_kind(option) for option in options]
    if isinstance(value, DictConfig):
        fits = {"mapping", "other"} if "_target_" not in value else {"mapping", "sequence", "node", "other"}
    elif isinstance(value, ListConfig):
        fits = {"sequence", "other"}
    elif value is None and type(None) not in options:
        fits = {"other"}  # such as a network that the code passes in
    else:
        fits = {"primitive", "other"}
    taken = [option for option, kind in zip(options, kinds, strict=True) if kind in fits]
    if not taken:
        raise UserError(f"{path}{'=' + str(value) if value is not None else ''} {_complaint(value, options)}")
    if "other" not in kinds and len(taken) == 1 and _kind(taken[0]) in ("mapping", "sequence"):
        if not (isinstance(value, DictConfig) and "_target_" in value):
            _items(path, value, taken[0])
        return value
    if value is None or "other" in kinds or isinstance(value, DictConfig | ListConfig):
        return value
    return _primitive(path, value, taken)


def typed_field(path: str, value: Any, hint: Any, target: Any) -> Any:
    """Return a value with the type of its field; where it is unfit, add what the class says of the field: its unit."""
    try:
        return typed(path, value, hint)
    except UserError as cause:
        field = re.escape(path.rpartition(".")[2])
        documented = re.search(rf"^\s*{field}: ([^.;]+)", inspect.getdoc(target) or "", re.MULTILINE)
        about = f" ({' '.join(documented[1].split())})" if documented and isinstance(value, str) else ""
        raise UserError(f"{cause}{about}") from None


def _options(hint: Any) -> tuple[Any, ...]:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _kind(option: Any) -> str:
    """Return how values of a hint are written: primitive, mapping, sequence, node (with a `_target_`), or other."""
    if option in PRIMITIVES:
        return "primitive"
    origin = typing.get_origin(option) or option
    if not isinstance(origin, type):
        return "other"
    if issubclass(origin, Mapping):
        return "mapping"
    if issubclass(origin, Sequence | Set) and origin not in (str, bytes):
        return "sequence"
    return "node" if dataclasses.is_dataclass(origin) or getattr(origin, "_is_protocol", False) else "other"


def _items(path: str, value: DictConfig | ListConfig, option: Any) -> None:
    """Convert the items of a container in place."""
    inner = typing.get_args(option)
    places: list[tuple[Any, str, Any]]
    if isinstance(value, DictConfig):
        places = [(key, f"{path}.{key!s}", inner[1] if len(inner) == 2 else Any) for key in value]
    else:
        fixed = typing.get_origin(option) is tuple and Ellipsis not in inner
        if fixed and len(inner) != len(value):
            raise UserError(f"{path}={value} has {len(value)} items; it takes {len(inner)}")
        hints = inner if fixed else [inner[0] if inner else Any] * len(value)
        places = [(number, f"{path}[{number}]", hint) for number, hint in enumerate(hints)]
    for key, place, hint in places:
        given = value[key]
        if (new := typed(place, given, hint)) is not given:  # containers are converted in place
            value[key] = new


def _primitive(path: str, value: Any, options: Sequence[Any]) -> Any:
    if type(value) is int and float in options and int not in options:
        value = float(value)  # a union does not do this by itself
    if type(value) is bool and bool not in options and str in options:
        value = str(value).lower()  # on the command line a bare `true` is a boolean
    if type(value) in options and not (isinstance(value, str) and ("${" in value or value == "???")):
        return value  # what the schema would say too, at a hundredth of the price
    try:
        return OmegaConf.merge(_schema(functools.reduce(operator.or_, options)), {"value": value}).value
    except OmegaConfBaseException:
        raise UserError(f"{path}={value} {_complaint(value, options)}") from None


@functools.cache
def _schema(hint: Any) -> DictConfig:
    """Return a configuration of one field `value` with that hint."""
    made = OmegaConf.structured(dataclasses.make_dataclass("Schema", [("value", hint)]))
    assert isinstance(made, DictConfig)
    return made


def _complaint(value: Any, options: Sequence[Any]) -> str:
    words = {"mapping": "a mapping {key: value}", "sequence": "a list", "node": "a node with a _target_"}
    names = [PRIMITIVES[o] if o in PRIMITIVES else words.get(_kind(o), str(o)) for o in options]
    return f"{'must not be null' if value is None else 'has the wrong type'}; it takes {' or '.join(names)}"
