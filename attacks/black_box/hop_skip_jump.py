"""HopSkipJump: a walk along the decision boundary with decisions alone."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.clearance import cleared
from attacks.hop_skip_jump_walk import Pace, Walk
from harness.access import DecisionHead
from harness.errors import UserError
from harness.rng import Rng
from harness.threat import Threat


@dataclass(frozen=True)
class HopSkipJump:
    """HopSkipJump (Chen, Jordan and Wainwright 2020, arXiv 1904.02144) for linf and l2: one query a step.

    Starts from uniform noise that fools the victim, blended with the image as far as that holds. Then in turns: bisect
    to the decision boundary, guess its normal from the answers to small random moves, go along it as far as the victim
    stays fooled. In a run with a finite eps a sample leaves as soon as any of its queries within eps fools the victim;
    where the threat is unbounded it goes on to the end, and the answer is the nearest find.

    Args:
        queries: for each sample, >= 1, the search for a start included.
        draws: random moves of the first turn, >= 1; turn t makes sqrt(t) times as many.
        most: random moves of any turn, >= 1.
        gamma: width of the bisection, > 0, in units of d^-1.5 (l2) or d^-2 (linf) for images of d entries.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "decision"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    unbounded: ClassVar[bool] = True

    queries: int = 10000
    draws: int = 100
    most: int = 10000
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("queries", "draws", "most"):
            if getattr(self, name) < 1:
                raise UserError(f"attack.{name}={getattr(self, name)} must be at least 1")
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise UserError(f"attack.gamma={self.gamma} must be a positive number")

    def __call__(self, head: DecisionHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Candidates z of the shape of x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        found, index = x.clone(), torch.arange(len(x), device=x.device)
        if not len(x):
            return found
        walk = Walk(x, threat, Pace.of(threat, x[0].numel(), self.draws, self.most, self.gamma))
        best = torch.full((len(x),), math.inf, device=x.device, dtype=torch.float64)
        for query in range(self.queries - threat.unbounded):
            draw = rng.stream(query)
            z = walk.question(draw)
            broken = head.broken(z, y, draw)
            walk.answer(z, broken)
            if threat.unbounded:
                distance = torch.where(broken, threat.distance(z, x), math.inf)
                nearer = distance < best
                found[nearer], best = z[nearer], distance.minimum(best)
                continue
            near = broken.clone()
            near[broken] = threat.select(broken).contains(z[broken], x[broken])
            if near.any():
                found[index[near]] = z[near]
                stay = (~near).nonzero().squeeze(1)
                if not len(stay):
                    return found
                walk.keep(stay)
                x, y, index, threat, rng = x[stay], y[stay], index[stay], threat.select(stay), rng.select(stay)
        return cleared(head, x, y, found, threat, rng.stream(self.queries)) if threat.unbounded else found
