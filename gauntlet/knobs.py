"""Knobs: fields of a configuration class that state their range, which is checked once and said in one wording."""

import math
from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar, cast

from gauntlet.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers that a knob takes: finite ones between the bounds, of which None is none."""

    whole: bool
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    optional: bool = False
    hint: str = ""

    def check(self, key: str, value: object) -> None:
        """Refuse a value outside the range. Raises UserError."""
        if value is None and self.optional:
            return
        if isinstance(value, Real) and not math.isfinite(value):
            raise UserError(f"{key}={value} must be finite")
        if not self._holds(value):
            null = ", or null" if self.optional else ""
            why = f": {self.hint}" if self.hint else ""
            raise UserError(f"{key}={value} must be a {'whole ' if self.whole else ''}number{self._words()}{null}{why}")

    def _holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value  # `Real` has no order for the type checker
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def _words(self) -> str:
        ends = [
            f"{word} {bound if isinstance(bound, int) else format(bound, 'g')}"
            for word, bound in (("from", self.least), ("above", self.above), ("to", self.most), ("below", self.below))
            if bound is not None
        ]
        joint = " " if self.least is not None and self.most is not None else " and "
        return " " + joint.join(ends) if ends else ""


@dataclass(frozen=True)
class Choice:
    """The words that a knob takes."""

    names: Collection[str]
    optional: bool = False

    def check(self, key: str, value: object) -> None:
        """Refuse another word. Raises UserError."""
        if value in self.names or (value is None and self.optional):
            return
        near = get_close_matches(str(value), self.names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        names = [*self.names, *(["null"] if self.optional else [])]
        raise UserError(f"{key}={value!r} is unknown; choose one of {', '.join(names)}{meant}")


T = TypeVar("T")


class Knobs:
    """Checks the knobs of a frozen dataclass below it when an instance is made.

    `class PGD(Knobs, key="attack")` says where the class stands in a configuration, for messages; without a key they
    name the class. Where a class below sets another default, the range stays. A class that checks more has a
    `__post_init__` that calls `super().__post_init__()` first.
    """

    _key: ClassVar[str] = ""

    def __init_subclass__(cls, key: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if key:
            cls._key = key
        known: dict[str, Field[Any]] = getattr(cls, "__dataclass_fields__", {})
        for name, value in list(vars(cls).items()):
            if name in known and not isinstance(value, Field | property):  # another default has the same range
                setattr(cls, name, field(default=value, metadata=known[name].metadata))

    def __post_init__(self) -> None:
        for each in fields(cast(Any, self)):
            check_knob(f"{self._key or type(self).__name__}.{each.name}", each, getattr(self, each.name))


NONE: Any = MISSING
"""In place of a default: the field must be given."""


def knob(
    default: T = NONE, *, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None, whole: bool | None = None, optional: bool = False, hint: str = "",
) -> T:  # fmt: skip
    """Return a dataclass field that takes numbers of a range.

    Args:
        default: without one the field must be given.
        least, above, most, below: the bounds: v >= least, v > above, v <= most, v < below.
        whole: whether only whole numbers; None: where the default is one.
        optional: whether None is fine too.
        hint: why, or the remedy, for the message.
    """
    only_whole = isinstance(default, int) if whole is None else whole
    span = Range(only_whole, least, above, most, below, optional, hint)
    return field(default=default, metadata={"knob": span})


def choice(default: T = NONE, names: Collection[str] = (), *, optional: bool = False) -> T:
    """Return a dataclass field that takes one of these words, and None where it is optional."""
    return field(default=default, metadata={"knob": Choice(names, optional)})


def check_knob(key: str, each: Field[Any], value: object) -> None:
    """Refuse a value that a field does not take; a field that is no knob takes all. Raises UserError."""
    if rule := each.metadata.get("knob"):
        rule.check(key, value)
