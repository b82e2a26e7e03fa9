"""Check plain JSON against type hints: one declaration is what mypy reads, what writers follow and what readers demand.

A hint is a scalar, `Any`, `Literal`, a union, `list[...]`, `dict[str, ...]`, a `TypedDict`, or any of these
`Annotated` with `Bounds`, `Length`, `Pattern` or `NEEDED`; other annotations are words for people. Imports no torch.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

NEEDED = object()
"""Marks a field without which a document is not whole."""


class Misfit(ValueError):
    """A field that is not what its hint says; the text names the field, its value, and what it must be."""


@dataclass(frozen=True)
class Bounds:
    """The range of a number, ends included."""

    least: float
    most: float

    def fits(self, value: Any) -> bool:
        """Return whether the value lies in it; what is no number is judged by its type alone."""
        return not isinstance(value, (int, float)) or self.least <= value <= self.most

    def __str__(self) -> str:
        return f"from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class Length:
    """How many characters a text, entries a list or keys a mapping may have."""

    most: int
    least: int = 0

    def fits(self, value: Any) -> bool:
        """Return whether the value has so many; null is judged by its type alone."""
        return value is None or self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"of {self.least} to {self.most} entries"


@dataclass(frozen=True)
class Pattern:
    """What a whole text must match. words: for the message."""

    pattern: str
    words: str

    def fits(self, value: Any) -> bool:
        """Return whether the text matches."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def check(value: Any, hint: Any, field: str = "") -> None:
    """Compare a value with a hint, and all that is in it.

    Args:
        field: name of the value, such as "threat.radius"; empty for a whole document.

    Raises:
        Misfit: the value, or one within it, is something else.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        check(value, parts[0], field)
        limits = [limit for limit in parts[1:] if isinstance(limit, Bounds | Length | Pattern)]
        for limit in limits:
            if not limit.fits(value):
                raise _misfit(value, str(limit), field)
    elif origin in (Union, UnionType):
        _check_union(value, hint, field)
    elif is_typeddict(hint):
        _check_fields(value, hint, field)
    elif origin is list:
        if not isinstance(value, list):
            raise _misfit(value, "a list", field)
        for place, each in enumerate(value):
            check(each, parts[0], f"{field}[{place}]")
    elif origin is dict:
        if not isinstance(value, dict):
            raise _misfit(value, "a mapping", field)
        for key, each in value.items():
            check(each, parts[1], _within(field, key))
    elif origin is Literal:
        if value not in parts:
            raise _misfit(value, " or ".join(parts), field)
    elif hint is not Any and not _is(value, hint):
        raise _misfit(value, _WORDS[hint], field)


def _check_union(value: Any, hint: Any, field: str) -> None:
    for part in get_args(hint):
        try:
            check(value, part, field)
        except Misfit as cause:
            last = cause
        else:
            return
    raise last


def _check_fields(value: Any, hint: Any, field: str) -> None:
    if not isinstance(value, dict):
        raise _misfit(value, "a mapping", field)
    for key, kind in _hints(hint).items():
        if key in value:
            check(value[key], kind, _within(field, key))
        elif NEEDED in get_args(kind):
            raise Misfit(f"{_within(field, key)} is missing")


@cache
def _hints(hint: Any) -> dict[str, Any]:
    return get_type_hints(hint, include_extras=True)


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _within(field: str, key: str) -> str:
    return f"{field}.{key[:60]}" if field else key[:60]


def _misfit(value: Any, wanted: str, field: str) -> Misfit:
    shown = json.dumps(value) if isinstance(value, str | int | float | bool | NoneType) else type(value).__name__
    return Misfit(f"{field or 'its content'} is {shown[:60]}, not {wanted}")
