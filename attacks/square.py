"""Square attack: random search with scores alone."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.losses import margins
from harness.errors import UserError
from harness.meter import MeteredHead
from harness.rng import Rng
from harness.threat import Threat

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of changed pixels is halved."""


@dataclass(frozen=True)
class Square:
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) for linf and l2: one query a step, no gradients.

    Each step changes a random square of the perturbation and keeps the change where the margin falls. Every sample has
    its own squares, so that batch-mates do not matter. A sample leaves as soon as a candidate fools the victim.

    Args:
        queries: >= 1, the start included.
        share: of the pixels that the first squares cover, in (0, 1].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "score"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    queries: int = 5000
    share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise UserError(f"attack.queries={self.queries} must be at least 1")
        if not 0 < self.share <= 1:
            raise UserError(f"attack.share={self.share} must lie in (0, 1]")

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the square of a query, in pixels."""
        share = self.share / 2 ** sum(query > bound for bound in SCHEDULE)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def __call__(self, head: MeteredHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        found = x.clone()
        if not len(x):
            return found
        index = torch.arange(len(x), device=x.device)
        propose, begin = (_propose_linf, _stripes) if threat.norm == "linf" else (_propose_l2, _bumps)
        z = threat.project(begin(x, threat, rng.stream("start")), x)
        best = torch.full((len(x),), torch.inf, device=x.device, dtype=torch.float64)
        tried = z
        for query in range(self.queries):
            draw = rng.stream(query)
            if query:
                side = self.side(query - 1, *x.shape[2:])
                tried = threat.project(propose(z, x, threat, side, draw), x)
            logits = head.scores(tried, draw)
            margin, broken = margins(logits, y).double(), head.broken(tried, logits, y, draw, plain=True)
            better = (margin < best) | broken
            z = torch.where(better.reshape(-1, 1, 1, 1), tried, z)
            best = torch.where(better, margin, best)
            if broken.any():
                found[index[broken]] = tried[broken]
                stay = (~broken).nonzero().squeeze(1)
                if not len(stay):
                    return found
                x, y, z, best, index = x[stay], y[stay], z[stay], best[stay], index[stay]
                threat, rng = threat.select(stay), rng.select(stay)
        found[index] = z
        return found


def _signs(rng: Rng, shape: tuple[int, ...], x: Tensor) -> Tensor:
    return 2 * rng.integers(shape, 2).to(x.dtype) - 1


def _stripes(x: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """One random sign for each column and channel."""
    return x + threat.budget(x) * _signs(rng, (x.shape[1], 1, x.shape[3]), x)


def _propose_linf(z: Tensor, x: Tensor, threat: Threat, side: int, rng: Rng) -> Tensor:
    """A square at a random place, each channel of it pushed to one end of the ball."""
    height, width = x.shape[2:]
    inside = _window(rng.stream("place"), height, width, side)
    return z + inside * 2 * threat.budget(x) * _signs(rng.stream("sign"), (x.shape[1], 1, 1), x)


def _window(rng: Rng, height: int, width: int, side: int) -> Tensor:
    """Mask bool [B, 1, H, W] of a square at a random place of each image."""
    top, left = _corner(rng, height, width, side)
    rows = torch.arange(height, device=top.device)[None, :] - top[:, None]
    columns = torch.arange(width, device=top.device)[None, :] - left[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return inside[:, None]


def _corner(rng: Rng, height: int, width: int, side: int) -> tuple[Tensor, Tensor]:
    return rng.integers((), height - side + 1, draw=0), rng.integers((), width - side + 1, draw=1)


def _bumps(x: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """A grid of bumps of random signs whose total length is eps."""
    height, width = x.shape[2:]
    side = max(min(height, width) // 5, 1)
    bump = _pyramid(side, side, x)
    tiled = bump.repeat(-(-height // side), -(-width // side))[:height, :width]
    cells = (-(-height // side), -(-width // side))
    signs = _signs(rng, (x.shape[1], *cells), x).repeat_interleave(side, 2).repeat_interleave(side, 3)
    delta = tiled * signs[:, :, :height, :width]
    return x + threat.budget(x) * delta / _norm(delta, (1, 2, 3))


def _propose_l2(z: Tensor, x: Tensor, threat: Threat, side: int, rng: Rng) -> Tensor:
    """The length in a second window, and what was not used, goes to a first window, in the shape of two half bumps."""
    height, width = x.shape[2:]
    side = min(max(side + 1 - side % 2, 3), height - 1 + height % 2, width - 1 + width % 2)
    delta = z - x
    corners = [_corner(rng.stream(name), height, width, side) for name in ("first", "second")]
    rows, columns = zip(*(_indices(corner, side) for corner in corners), strict=True)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    masks = [torch.zeros_like(delta[:, 0], dtype=torch.bool) for _ in corners]
    for mask, row, column in zip(masks, rows, columns, strict=True):
        mask[batch, row, column] = True
    both = (masks[0] | masks[1])[:, None]
    spare = (threat.budget(x) ** 2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    length = ((delta * both).square().sum((2, 3), keepdim=True) + spare / x.shape[1]).sqrt()
    old = delta.permute(0, 2, 3, 1)[batch, rows[0], columns[0]].permute(0, 3, 1, 2)
    shape = _split_pyramid(side, rng.stream("shape"), x)
    new = _signs(rng.stream("sign"), (x.shape[1], 1, 1), x) * shape + old / _norm(old, (2, 3))
    new = new / _norm(new, (2, 3)) * length
    delta = torch.where(both, 0.0, delta)
    placed = torch.zeros_like(delta).permute(0, 2, 3, 1).contiguous()
    placed[batch, rows[0], columns[0]] = new.permute(0, 2, 3, 1)
    return x + delta + placed.permute(0, 3, 1, 2)


def _indices(corner: tuple[Tensor, Tensor], side: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(side, device=corner[0].device)
    return (corner[0][:, None] + steps)[:, :, None], (corner[1][:, None] + steps)[:, None, :]


def _pyramid(height: int, width: int, x: Tensor) -> Tensor:
    """A bump [height, width] that falls from its middle like sum 1 / k^2, of length one."""
    n = height // 2
    rows = (torch.arange(height, device=x.device) - n).abs()
    columns = (torch.arange(width, device=x.device) - width // 2).abs()
    level = n - torch.maximum(rows[:, None], columns[None, :])
    terms = torch.tensor([1 / (n + 1 - k) ** 2 for k in range(n + 1)], device=x.device, dtype=x.dtype).cumsum(0)
    bump: Tensor = torch.where(level >= 0, terms[level.clamp_min(0)], 0.0)
    return bump / _norm(bump, (0, 1))


def _split_pyramid(side: int, rng: Rng, x: Tensor) -> Tensor:
    """Two bumps of opposite sign that share a square, upright or lying: [B, 1, side, side], of length one."""
    half = side // 2
    upper, lower = _pyramid(half, side, x), _pyramid(side - half, side, x)
    shape = torch.cat([upper, -lower], 0)
    shape = shape / _norm(shape, (0, 1))
    lying = rng.integers((), 2).bool().reshape(-1, 1, 1, 1)
    either: Tensor = torch.where(lying, shape.T[None, None], shape[None, None])
    return either


def _norm(delta: Tensor, dims: tuple[int, ...]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    return length.clamp_min(1e-12)
