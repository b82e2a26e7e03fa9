"""Charts as plain geometry, which a template draws as SVG: they need no script and no library.

A script adds what a still picture lacks (`static/plots.js`): the values under the pointer, and zoom. It reads the axes
from the picture, so that nothing is written twice.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 480, 360
LEFT, TOP, RIGHT, BOTTOM = 62, 10, 466, 312
"""The picture, and in it the box of the data, in its own units; a letter of it is 12 high."""

DASHES = ("", "7 3", "2 2.5", "8 3 2 3", "12 4", "12 3 2 3")
"""Of one line after the other: they differ in more than color."""

_BEATS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MOST_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """One axis. low, high: its ends; of a logarithmic one the logarithms to base 10 of its ends."""

    title: str
    low: float
    high: float
    unit: str = ""
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, [0, 1] within them."""
        place = math.log10(value) if self.log else value
        return (place - self.low) / (self.high - self.low)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield values at even distances, round numbers all, and what is written there.

        >>> list(Axis("", -2, 102, " %").ticks())[:2]
        [(0.0, '0 %'), (20.0, '20 %')]
        """
        if self.log:
            decades = max(1, round((self.high - self.low) / _MOST_TICKS))
            for power in range(math.ceil(self.low), math.floor(self.high) + 1, decades):
                yield 10.0**power, f"{10**power:,}{self.unit}" if power >= 0 else f"{10.0**power:g}{self.unit}"
            return
        least = (self.high - self.low) / _MOST_TICKS
        scale = 10.0 ** math.floor(math.log10(least))
        step = next(beat * scale for beat in _BEATS if beat * scale >= least * (1 - 1e-9))
        for number in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1):
            value = float(f"{number * step:.12g}")
            if not self.unit or 0 <= value <= 100:
                yield value, f"{value:.6g}{self.unit}"


@dataclass(frozen=True)
class Line:
    """A line through points, or steps that hold a value until the next point.

    Args:
        points: x and y, by rising x.
        role: how it is drawn: curve, worst (the one that counts) or front.
        intervals: low and high end of y at each point; empty: none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    role: str = "curve"
    stepped: bool = False
    intervals: Sequence[tuple[float, float]] = ()
    dash: str = ""


@dataclass(frozen=True)
class Mark:
    """A point that stands for something.

    Args:
        span: low and high end of its interval; None: it has none.
        said: what it says when pointed at, in lines.
        link: the page it leads to.
        label: what is written beside it, on that side of it ("middle right", "top left", ...); empty: nothing.
    """

    x: float
    y: float
    said: tuple[str, ...]
    link: str
    span: tuple[float, float] | None = None
    label: str = ""
    side: str = "middle right"

    @property
    def beside(self) -> tuple[int, int, str]:
        """Return where its label stands, counted from it, and which end of the text is there."""
        row, column = self.side.split()
        x, anchor = {"right": (8, "start"), "left": (-8, "end"), "center": (0, "middle")}[column]
        return x, {"top": -8, "middle": 4, "bottom": 16}[row], anchor


@dataclass(frozen=True)
class Chart:
    """Lines and marks over two axes.

    Args:
        name: what is seen, for who does not see it.
        at: a value of x to mark by a dotted line.
    """

    name: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    at: float | None = None

    def across(self, value: float) -> str:
        """Return the place of a value of x in the picture."""
        return number(LEFT + (RIGHT - LEFT) * self.x.share(value))

    def up(self, value: float) -> str:
        """Return the place of a value of y in the picture."""
        return number(BOTTOM - (BOTTOM - TOP) * self.y.share(value))

    def path(self, line: Line) -> str:
        """Return a line as the `d` of a path."""
        (x, y), *rest = line.points
        said = [f"M{self.across(x)} {self.up(y)}"]
        for x, y in rest:
            said.append(f"H{self.across(x)}V{self.up(y)}" if line.stepped else f"L{self.across(x)} {self.up(y)}")
        return "".join(said)

    def bars(self, line: Line) -> str:
        """Return the intervals of a line as the `d` of a path."""
        ends = zip(line.points, line.intervals, strict=bool(line.intervals))
        return "".join(f"M{self.across(x)} {self.up(low)}V{self.up(high)}" for (x, _), (low, high) in ends)

    def reach(self, mark: Mark) -> tuple[str, str]:
        """Return where the interval of a mark ends, counted from the mark, in the units of the picture."""
        low, high = mark.span or (mark.y, mark.y)
        each = (BOTTOM - TOP) * (self.y.share(1.0) - self.y.share(0.0))
        return number(each * (mark.y - low)), number(each * (mark.y - high))


def dashed(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return the lines, each with a pattern of its own while there are some left."""
    return tuple(replace(line, dash=DASHES[place % len(DASHES)]) for place, line in enumerate(lines))


def number(value: float) -> str:
    """Return a coordinate, to a hundredth of a unit."""
    return f"{value + 0.0:.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.005 else "0"
