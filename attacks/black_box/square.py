"""Square attack: random search with scores alone."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.losses import margins
from attacks.squares import begin, propose
from harness.errors import UserError
from harness.meter import MeteredHead
from harness.rng import Rng
from harness.threat import Threat

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of changed pixels is halved."""

BLOCK = 64
"""Queries whose random numbers are drawn at once; another number would give other draws."""


@dataclass(frozen=True)
class Square:
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
        x = x.contiguous()
        z = tried = begin(x, threat, rng.stream("start"))
        best = torch.full((len(x),), torch.inf, device=x.device, dtype=torch.float64)
        words = rng.ids[:, None, None]
        for query in range(self.queries):
            draw = rng.stream(query)
            if query % BLOCK == 0:
                words = rng.stream(f"block{query // BLOCK}").bits((BLOCK, 5 + x.shape[1]))
            if query:
                tried = propose(z, x, threat, self.side(query - 1, *x.shape[2:]), words[:, query % BLOCK])
            logits = head.scores(tried, draw)
            margin, broken = margins(logits, y).double(), head.broken(tried, logits, y, draw, plain=True)
            better = ((margin < best) | broken).nonzero().squeeze(1)
            if len(better):
                z[better], best[better] = tried[better], margin[better]
            if broken.any():
                found[index[broken]] = tried[broken]
                stay = (~broken).nonzero().squeeze(1)
                if not len(stay):
                    return found
                x, y, z, best, index, words = (t[stay] for t in (x, y, z, best, index, words))
                threat, rng = threat.select(stay), rng.select(stay)
        found[index] = z
        return found
