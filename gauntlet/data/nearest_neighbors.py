"""Distances to the nearest of very many points, block by block: memory is bounded, whatever their number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPARE = 8
"""More candidates than are wanted: single precision may order those that are nearly as far otherwise."""

EXACT_ROWS = 256
"""Points whose candidates are compared in double precision at once."""


def nearest_distances(
    points: NDArray[Any], neighbors: int, device: torch.device, rows: int = 4096, columns: int = 16384
) -> Iterator[NDArray[np.float64]]:
    """Yield the l2 distances of each point to its nearest others, in rising order, float64 [rows, neighbors].

    Candidates are found by products in single precision, block against block; their distances are then taken in double
    precision from differences, so that those of near points are not lost in rounding.

    Args:
        points: floating point [n, d] with n > neighbors, an array or a mapped file.
        neighbors: of each point, >= 1.
        device: for the products.
        rows, columns: points that are compared at once; that takes rows x columns x 4 bytes.
    """
    count, kept = len(points), min(neighbors + SPARE, len(points) - 1)
    center = _block(points, 0, min(columns, count), device).mean(0)  # shorter vectors round less
    for start in range(0, count, rows):
        end = min(start + rows, count)
        mine = _block(points, start, end, device) - center
        best, place = mine.new_full((len(mine), kept), torch.inf), mine.new_zeros((len(mine), kept), dtype=torch.int64)
        for first in range(0, count, columns):
            last = min(first + columns, count)
            others = _block(points, first, last, device) - center
            squared = torch.addmm(others.square().sum(1), mine, others.T, alpha=-2)  # less |mine|^2, alike in a row
            own = torch.arange(max(start, first), max(start, first, min(end, last)), device=device)
            squared[own - start, own - first] = torch.inf
            near = squared.topk(min(kept, last - first), dim=1, largest=False)
            best, order = torch.cat([best, near.values], 1).topk(kept, dim=1, largest=False)
            place = torch.cat([place, near.indices + first], 1).gather(1, order)
        yield _exact(points, start, place.cpu().numpy(), neighbors)


def _block(points: NDArray[Any], start: int, end: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(points[start:end], np.float32)).to(device)


def _exact(points: NDArray[Any], start: int, place: NDArray[np.int64], neighbors: int) -> NDArray[np.float64]:
    """Return the distances of the points from `start` on to the nearest of their candidates [rows, c]."""
    found = np.empty((len(place), neighbors))
    for first in range(0, len(place), EXACT_ROWS):
        chosen = place[first : first + EXACT_ROWS]
        mine = np.asarray(points[start + first : start + first + len(chosen)], np.float64)
        away = np.asarray(points[chosen], np.float64) - mine[:, None]
        found[first : first + len(chosen)] = np.sort(np.sqrt(np.square(away).sum(2)), 1)[:, :neighbors]
    return found
