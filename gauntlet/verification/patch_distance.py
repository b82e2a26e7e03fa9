"""How large the patches of an example are, decided otherwise than by `PatchThreat`. Imports no torch."""

import math

import numpy as np
from numpy.typing import NDArray

from gauntlet.evidence.manifest import ThreatFacts


def patch_distance(z: NDArray[np.float32], x: NDArray[np.float32], threat: ThreatFacts) -> float:
    """Return the least width of patches of this shape that cover all changed pixels of z; z, x: [C, H, W].

    Infinite where none at the given place do.
    """
    changed, aspect = (z != x).any(axis=0), threat.get("aspect", 1.0)
    if not changed.any():
        return 0.0
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    if "row" in threat and "column" in threat:
        high, wide = rows[-1] - threat["row"] + 1, columns[-1] - threat["column"] + 1
        return math.inf if rows[0] < threat["row"] or columns[0] < threat["column"] else max(wide, high / aspect)
    if threat.get("count", 1) == 1:
        return float(max(columns[-1] - columns[0] + 1, (rows[-1] - rows[0] + 1) / aspect))
    points = np.argwhere(changed)
    sides = {float(n) for n in range(1, changed.shape[1] + 1)} | {n / aspect for n in range(1, changed.shape[0] + 1)}
    for side in sorted(sides):
        if _covered(points, int(side * aspect * (1 + 1e-9)), int(side * (1 + 1e-9)), threat["count"]):
            return side
    return math.inf


def _covered(points: NDArray[np.int64], height: int, width: int, count: int) -> bool:
    """Return whether `count` rectangles cover the points (row, column), [n, 2].

    One of them covers the leftmost point; it may begin in its column, and at a row of some point.
    """
    if not len(points):
        return True
    if not count:
        return False
    row, column = points[points[:, 1].argmin()]
    for top in {int(r) for r in points[:, 0] if row - height < r <= row}:
        inside = (points[:, 0] >= top) & (points[:, 0] < top + height) & (points[:, 1] < column + width)
        if _covered(points[~inside], height, width, count - 1):
            return True
    return False
