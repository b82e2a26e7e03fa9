"""Square attack: random search with scores alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gauntlet.attacks.losses import margins
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import HostIndex, HostMask, HostValues, positions
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

POWER = {"l2": 2, "l1": 1}

DECAY = {"l2": 2, "l1": 4}
"""A bump falls from its middle like the sum of 1 / k^DECAY."""


class Window(NamedTuple):
    """A square of pixels in each image."""

    top: Tensor  # [B]
    left: Tensor  # [B]
    side: int
    where: Tensor  # int64 [B, side^2], positions in the flattened image, row by row

    @classmethod
    def place(cls, words: Tensor, side: int, height: int, width: int) -> "Window":
        """At random; words: random integers in [0, 2^32), int64 [B, 2]."""
        top, left = (words[:, 0] * (height - side + 1)) >> 32, (words[:, 1] * (width - side + 1)) >> 32
        return cls(top, left, side, (top * width + left)[:, None] + _inside(side, width, words.device))

    def read(self, image: Tensor) -> Tensor:
        """Return what image [B, C, H, W] holds there, [B, C, side^2]."""
        return image.flatten(2).gather(2, self._of(image))

    def write(self, image: Tensor, value: Tensor) -> None:
        """Put value [B, C, side^2] there, in place; image must be contiguous."""
        image.flatten(2).scatter_(2, self._of(image), value)

    def outside(self, other: "Window", width: int) -> Tensor:
        """Return which of the pixels lie outside another window, bool [B, 1, side^2]."""
        row, column = self.where // width - other.top[:, None], self.where % width - other.left[:, None]
        return ((row < 0) | (row >= other.side) | (column < 0) | (column >= other.side))[:, None]

    def _of(self, image: Tensor) -> Tensor:
        return self.where[:, None].expand(-1, image.shape[1], -1)


@cache
def _inside(side: int, width: int, device: torch.device) -> Tensor:
    """Return where the pixels of a square lie from its corner, in an image of that width, row by row: int64
    [side^2]."""
    steps = torch.arange(side, device=device)
    return (steps[:, None] * width + steps).flatten()


def begin(x: Tensor, threat: Threat, rng: Rng) -> Tensor:
    """Return the first candidates: for linf one random sign for each column and channel, else a grid of bumps."""
    if threat.norm == "linf":
        return threat.project(x + threat.budget(x) * _signs(rng.bits((x.shape[1], 1, x.shape[3]))).to(x.dtype), x)
    height, width = x.shape[2:]
    side = max(min(height, width) // 5, 1)
    cells = (height // side, width // side)
    signs = _signs(rng.bits((x.shape[1], *cells)))[..., None, None]
    grid = signs * _bump(side, rng.stream("shape").bits(cells), threat.norm, x)[:, None]
    grid = grid.permute(0, 1, 2, 4, 3, 5).reshape(*x.shape[:2], cells[0] * side, cells[1] * side)
    above, before = (height - cells[0] * side) // 2, (width - cells[1] * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, above : above + cells[0] * side, before : before + cells[1] * side] = grid
    if threat.norm == "l2":
        delta = threat.budget(x) * delta / _length(delta.flatten(1), "l2").reshape(-1, 1, 1, 1)
    return threat.project(x + delta, x)


def propose(z: Tensor, x: Tensor, threat: Threat, side: int, words: Tensor) -> Tensor:
    """Return candidates that differ from z [B, C, H, W] in a random square of a side.

    For linf each channel of the square goes to one end of the ball. For l2 and l1 the length in a second square, and
    what was not used, goes to the first, in the shape of two half bumps on top of what was there.

    words: random integers in [0, 2^32), int64 [B, 5 + C].
    """
    height, width = x.shape[2:]
    tried = z.clone()
    if threat.norm == "linf":
        window = Window.place(words, side, height, width)
        eps = threat.budget(x)[:, :, 0]
        value = window.read(x) + torch.where(words[:, 5:, None] >> 31 > 0, eps, -eps)
        window.write(tried, value.clamp_(threat.low, threat.high))
        return tried
    signs = _signs(words[:, 5:, None])
    side = min(max(side + 1 - side % 2, 3), height - 1 + height % 2, width - 1 + width % 2)
    first, second = (Window.place(words[:, at : at + 2], side, height, width) for at in (0, 2))
    here, there = (window.read(z) - window.read(x) for window in (first, second))
    new = signs * _bump(side, words[:, 4], threat.norm, x).flatten(1)[:, None] + here / _length(here, threat.norm)
    power = POWER[threat.norm]
    mass = _mass(there, power) + _mass(here * first.outside(second, width), power)
    spare = (threat.budget(x) * (1 - 2e-6)).flatten(1) ** power - _mass((z - x).flatten(1), power)
    room = (mass + spare.clamp_min(0)[:, :, None] / x.shape[1]) ** (1 / power)
    if threat.norm == "l1":
        room = room * x.shape[1]  # more than there is: the projection takes it from all pixels
    second.write(tried, second.read(x))
    first.write(tried, first.read(x) + new / _length(new, threat.norm) * room)
    return tried.clamp_(threat.low, threat.high) if threat.norm == "l2" else threat.project(tried, x)


def _bump(side: int, words: Tensor, norm: str, x: Tensor) -> Tensor:
    """Return two bumps of opposite sign that share a square, upright or lying by a bit of words [...]: [..., side,
    side].

    Its length is one in the norm.
    """
    half = side // 2
    shape = torch.cat([_pyramid(half, side, norm, x), -_pyramid(side - half, side, norm, x)], 0)
    shape = shape / _length(shape.flatten(), norm)
    either: Tensor = torch.where((words >> 31).bool()[..., None, None], shape.T, shape)
    return either


def _pyramid(height: int, width: int, norm: str, x: Tensor) -> Tensor:
    """Return a bump [height, width] that falls from its middle, of length one in the norm."""
    n = height // 2
    rows = (torch.arange(height, device=x.device) - n).abs()
    columns = (torch.arange(width, device=x.device) - width // 2).abs()
    rings = max(height // 2, width // 2)
    level = rings - torch.maximum(rows[:, None], columns)
    terms = torch.tensor([1 / (rings + 1 - k) ** DECAY[norm] for k in range(rings + 1)], device=x.device, dtype=x.dtype)
    bump = terms.cumsum(0)[level.clamp_min(0)]
    return bump / _length(bump.flatten(), norm)


def _mass(delta: Tensor, power: int) -> Tensor:
    return (delta.square() if power == 2 else delta.abs()).sum(-1, keepdim=True)


def _length(delta: Tensor, norm: str) -> Tensor:
    """Return the length in the norm over the last dimension, which is kept."""
    length: Tensor = torch.linalg.vector_norm(delta, POWER[norm], dim=-1, keepdim=True)
    return length.clamp_min(1e-12)


def _signs(words: Tensor) -> Tensor:
    return 2 * (words >> 31) - 1


SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of changed pixels is halved."""


BLOCK = 64
"""Queries whose random numbers are drawn at once; another number would give other draws."""


GoingOn = Callable[[int, HostIndex, HostValues], HostMask | None]
"""From the number of queries so far, the positions of the samples that stand, int64 [b], and their least margins [b]:
which of them go on, bool [b]; None: all."""


@dataclass(frozen=True)
class Square(Knobs, key="attack"):
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049) for linf, l2 and l1: one query a step, no gradients.

    Each step changes a random square of the perturbation and keeps the change where the margin falls. Every sample has
    its own squares, so that batch-mates do not matter. A sample leaves as soon as a candidate fools the victim. The
    form for l1 is that of Croce and Hein 2021, arXiv 2103.01208.

    Args:
        queries: >= 1, the start included.
        share: of the pixels that the first squares cover, in (0, 1].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "score"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    queries: int = knob(5000, least=1)
    share: float = knob(0.8, above=0, most=1)

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the square of a query, in pixels."""
        share = self.share / 2 ** sum(query > bound for bound in SCHEDULE)
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        return self.search(head, x, y, threat=threat, rng=rng)

    def search(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        *,
        threat: Threat,
        rng: Rng,
        start: Tensor | None = None,
        ahead: int = 0,
        going_on: GoingOn | None = None,
    ) -> Tensor:
        """Return what a call does, with the samples that stand left out as soon as `going_on` says so.

        start: first candidates like x, legal; None: stripes or bumps.
        ahead: queries that count as made already where the side of a square is chosen, >= 0: a start that is nearly
            adversarial is lost by large squares.
        """
        found = x.clone()
        if not len(x):
            return found
        index, best = np.arange(len(x)), np.full(len(x), np.inf)
        x = x.contiguous()
        z = tried = begin(x, threat, rng.stream("start")) if start is None else start.clone()
        words = rng.ids[:, None, None]
        for query in range(self.queries):
            draw = rng.stream(query)
            if query % BLOCK == 0:
                words = rng.stream(f"block{query // BLOCK}").bits((BLOCK, 5 + x.shape[1]))
            if query:
                tried = propose(z, x, threat, self.side(ahead + query - 1, *x.shape[2:]), words[:, query % BLOCK])
            fallen, margin = head.fallen(tried, y, draw, margins(head.scores(tried, draw), y), plain=True)
            better = (margin < best) | fallen
            best[better] = margin[better]
            asked = None if going_on is None else going_on(query + 1, index, best)
            leaving = fallen if asked is None else fallen | ~asked
            there = [mask.nonzero()[0] for mask in (better, leaving, ~leaving)]
            rows, gone, stay, places = positions(x.device, *there, index[leaving])
            if len(rows):
                z[rows] = tried[rows]
            if len(gone):
                found[places] = z[gone]
                if not len(stay):
                    return found
                x, y, z, words = (t[stay] for t in (x, y, z, words))
                best, index = best[~leaving], index[~leaving]
                threat, rng = threat.select(stay), rng.select(stay)
        found[positions(x.device, index)[0]] = z
        return found
