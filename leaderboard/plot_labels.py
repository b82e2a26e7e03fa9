"""Where the labels of a scatter plot go, so that they cover neither points nor each other."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]

_CHARACTER, _LINE, _GAP = 0.018, 0.053, 0.02
"""Width of a letter, height of a line and distance to the point, as shares of the box of a chart."""


LONGEST = 20
"""Letters of a label."""


def shortened(name: str) -> str:
    """Return the name that stands beside a point; a page tells the whole of a long one when the point is pointed at."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def merged(points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str]:
    """Return the labels, with those of points at one place put together: one name a line at the first of them, and
    nothing at the others.

    Args:
        points: places in the plot as shares of its width and height, [0, 1]; marks that overlap are at one place.
    """
    labels: list[str] = []
    for number, ((x, y), name) in enumerate(zip(points, names, strict=True)):
        near = (
            at for at in range(number) if labels[at] and abs(points[at][0] - x) < _GAP and abs(points[at][1] - y) < _GAP
        )
        first = next(near, None)
        labels.append(name if first is None else "")
        if first is not None:
            labels[first] += f"\n{name}"
    return labels


def positions(
    points: Sequence[tuple[float, float]], texts: Sequence[str], bars: Sequence[tuple[float, float]] = ()
) -> list[str]:
    """Return on which side of its point each label goes, such as `top left`; empty for one that would cover something
    wherever it goes.

    Args:
        points: places in the plot as shares of its width and height, [0, 1].
        texts: the labels, of one or more lines; an empty one takes no room.
        bars: lower and upper end of the error bar of each point, in shares of the height.

    Greedy, in the given order: the first of six places with the least overlap.
    """
    taken = [(x - _GAP, y - _GAP, x + _GAP, y + _GAP) for x, y in points]
    taken += [(x - _GAP / 3, low, x + _GAP / 3, high) for (x, _), (low, high) in zip(points, bars, strict=False)]
    chosen = []
    for (x, y), text in zip(points, texts, strict=True):
        lines = text.split("\n")
        options = _options(x, y, _CHARACTER * max(map(len, lines)), _LINE * len(lines))
        costs = {name: sum(_overlap(box, other) for other in taken) + _outside(box) for name, box in options.items()}
        name = min(costs, key=lambda option: costs[option])
        free = bool(text) and costs[name] < 1e-9
        chosen.append(name if free else "")
        if free:
            taken.append(options[name])
    return chosen


def _options(x: float, y: float, width: float, height: float) -> dict[str, Box]:
    columns = {"right": (x + _GAP, x + _GAP + width), "left": (x - _GAP - width, x - _GAP)}
    columns["center"] = (x - width / 2, x + width / 2)
    rows = {"top": (y + _GAP, y + _GAP + height), "bottom": (y - _GAP - height, y - _GAP)}
    rows["middle"] = (y - height / 2, y + height / 2)
    sides = "middle right, middle left, top right, bottom right, top left, bottom left"
    names = [side.split() for side in sides.split(", ")]
    return {
        f"{row} {column}": (columns[column][0], rows[row][0], columns[column][1], rows[row][1]) for row, column in names
    }


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box) -> float:
    """Return how far a box leaves the plot, weighed above any overlap."""
    return sum(max(0.0, -end) for end in box[:2]) + sum(max(0.0, end - 1) for end in box[2:])
