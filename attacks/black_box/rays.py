"""RayS: a search over sign vectors with decisions alone."""

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from gauntlet.attacks.black_box.boundary_margin import with_boundary_margin
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.access import DecisionHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class RayS(Knobs, key="attack"):
    """RayS (Chen and Gu 2020, arXiv 2006.12792) for linf: one query a step, which reveals a class and nothing else.

    Searches the sign vector along which the decision boundary is nearest, from all ones: turns over one block of signs,
    all of them first, then halves, quarters and so on down to single pixels, asks whether the turned vector still fools
    the victim at the best radius so far, and only then bisects for its own. In a run with a finite eps a sample leaves
    as soon as its radius is within eps; where the threat is unbounded it goes on to the end, and the answer is the
    nearest adversarial example.

    Args:
        queries: for each sample, >= 1.
        tolerance: of the bisection, > 0, as the Euclidean length of the move.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "decision"
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    unbounded: ClassVar[bool] = True

    queries: int = knob(10000, least=1)
    tolerance: float = knob(0.001, above=0)

    def __call__(self, head: DecisionHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        candidates, index = x.clone(), torch.arange(len(x), device=x.device)
        if not len(x):
            return candidates
        search, fine = RayState.start(x, threat), self.tolerance / math.sqrt(x[0].numel())
        for query in range(self.queries - threat.unbounded):
            z = search.point(search.turned, search.asked, threat)
            broken = head.broken(z, y, rng.stream(query))
            near = broken & (search.asked <= threat.budget(x).flatten()) & (not threat.unbounded)
            search = search.answer(broken, fine)
            if near.any():
                candidates[index[near]] = z[near]
                stay = (~near).nonzero().squeeze(1)
                if not len(stay):
                    return candidates
                search, x, y, index = search.select(stay), x[stay], y[stay], index[stay]
                threat, rng = threat.select(stay), rng.select(stay)
        if threat.unbounded:
            candidates = search.settled(search.bisects).nearest(threat)
            return with_boundary_margin(head, x, y, candidates, threat, rng.stream(self.queries))
        return candidates


@dataclass(frozen=True)
class RayState:
    """The search of each sample: a vector of signs, and a question about it with one block turned over.

    Radii are linf, float64 [B].
    """

    x: Tensor  # [B, C, H, W]
    sign: Tensor  # the best vector so far, [B, d], in the dtype of x
    radius: Tensor  # along it; the width of the box where no vector was found to fool the victim
    success: Tensor  # bool [B]
    bisects: Tensor  # whether the turned vector fools the victim, and its radius is being looked for; bool [B]
    low: Tensor  # ends of that bisection; high is the best radius before it
    high: Tensor
    level: Tensor  # there are 2^level blocks, int64 [B]
    block: Tensor  # which of them is turned, int64 [B]

    @classmethod
    def start(cls, x: Tensor, threat: Threat) -> Self:
        zeros = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        no, first, width = zeros.bool(), zeros.long(), zeros + (threat.high - threat.low)
        return cls(x, torch.ones_like(x.flatten(1)), width, no, no, zeros, width, first, first)

    def select(self, index: Tensor) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def asked(self) -> Tensor:
        """Return the radius of the question."""
        return torch.where(self.bisects, (self.low + self.high) / 2, self.high)

    @property
    def turned(self) -> Tensor:
        """Return the vector of the question."""
        place, size = torch.arange(self.sign.shape[1], device=self.sign.device), self._size()[:, None]
        start = self.block[:, None] * size
        inside = (place >= start) & (place < start + size)
        return torch.where(inside, -self.sign, self.sign)

    def point(self, sign: Tensor, radius: Tensor, threat: Threat) -> Tensor:
        """Return the images moved that far along a vector, inside the box."""
        move = sign * radius.to(sign.dtype)[:, None]
        return (self.x + move.reshape(self.x.shape)).clamp(threat.low, threat.high)

    def nearest(self, threat: Threat) -> Tensor:
        """Return what was found, and the images of the other samples."""
        there = self.success.reshape(-1, *[1] * (self.x.dim() - 1))
        return torch.where(there, self.point(self.sign, self.radius, threat), self.x)

    def answer(self, broken: Tensor, fine: float) -> Self:
        """Return the search after the answers; a bisection ends where its ends are `fine` apart."""
        low = torch.where(self.bisects & ~broken, self.asked, self.low)
        high = torch.where(broken, self.asked, self.high)
        over = torch.where(self.bisects, high - low <= fine, ~broken)
        updated = replace(self, low=low, high=high, bisects=self.bisects | broken).settled(over)
        level, block = self._next()
        return replace(
            updated,
            bisects=updated.bisects & ~over,
            low=torch.where(over, 0.0, low),
            high=torch.where(over, updated.radius, high),
            level=torch.where(over, level, self.level),
            block=torch.where(over, block, self.block),
        )

    def settled(self, where: Tensor) -> Self:
        """Return the search with the turned vector as the best one, where it is."""
        better = where & self.bisects & ((self.high < self.radius) | ~self.success)
        return replace(
            self,
            sign=torch.where(better[:, None], self.turned, self.sign) if better.any() else self.sign,
            radius=torch.where(better, self.high, self.radius),
            success=self.success | better,
        )

    def _size(self) -> Tensor:
        """Return the length of a block, int64 [B]."""
        count = torch.ones_like(self.level) << self.level
        return (self.sign.shape[1] + count - 1) // count

    def _next(self) -> tuple[Tensor, Tensor]:
        """Return the level and block of the next question; where the blocks are single pixels, they are gone through
        again."""
        after = self.block + 1
        last = after * self._size() >= self.sign.shape[1]
        finest = (self.sign.shape[1] - 1).bit_length()
        level = torch.where(last, (self.level + 1).clamp_max(finest), self.level)
        return level, torch.where(last, 0, after)
