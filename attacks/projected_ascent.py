"""Projected ascent along a plan of steps: the loop that the gradient attacks share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import Cotangent, margins
from gauntlet.attacks.returning_iterates import ReturningIterates
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss, positions
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


class PerturbationSet(NamedTuple):
    """The set of a threat around images that stay the same from step to step.

    What depends on the images alone is computed once, so that a projection is a single clamp under linf. The points are
    to the last bit those of `Threat.project`.
    """

    threat: Threat
    x: Tensor  # [B, C, H, W]; as it was at first where low and high say all
    eps: Tensor  # [1 or B, 1, 1, 1]
    low: Tensor | None  # the least and
    high: Tensor | None  # the largest value of each pixel, where they bound the set

    @classmethod
    def around(cls, threat: Threat, x: Tensor) -> "PerturbationSet":
        """Return the set of the threat around images x [B, C, H, W]."""
        eps = threat.budget(x)
        if threat.norm != "linf" or threat.unbounded:
            return cls(threat, x, eps, None, None)
        low, high = ((x + side * eps).clamp_(threat.low, threat.high) for side in (-1, 1))
        return cls(threat, x, eps, low, high)

    def select(self, index: Tensor) -> "PerturbationSet":
        """Return the sets of some of the samples; positions int64 [b]."""
        eps = self.eps if len(self.eps) == 1 else self.eps[index]
        if self.low is None or self.high is None:
            return PerturbationSet(self.threat.select(index), self.x.index_select(0, index), eps, None, None)
        low, high = self.low.index_select(0, index), self.high.index_select(0, index)
        return PerturbationSet(self.threat.select(index), self.x, eps, low, high)

    def project(self, z: Tensor) -> Tensor:
        """Return the point of the set near z, which may be overwritten."""
        return self.threat.project(z, self.x) if self.low is None else z.clamp_(self.low, self.high)

    def step(self, z: Tensor, gradient: Tensor, length: Tensor | float, sparsity: float = 0.05) -> Tensor:
        """Return the point `length` times eps from z along the steepest direction, back inside the set; a tensor of its
        own.

        length: a number, or one for each sample [B, 1, 1, 1].
        """
        direction = self.threat.steepest(gradient, sparsity).mul_(self.eps * length)
        return self.project(direction.add_(z))


class Step(NamedTuple):
    """Go `length` times eps along the steepest direction of `loss`."""

    loss: Cotangent
    length: float


class BestCandidates(NamedTuple):
    """The candidate of each sample so far: the first that fools the victim, else the one of least margin."""

    z: Tensor  # [B, C, H, W]
    margin: Tensor  # [B], of the attacked head
    broken: Tensor  # bool [B]

    @classmethod
    def start(cls, x: Tensor) -> "BestCandidates":
        """Start with no success: the candidates are the images themselves."""
        return cls(x.clone(), x.new_full((len(x),), math.inf), torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def note(self, index: Tensor, z: Tensor, margin: Tensor, broken: Tensor) -> None:
        """Enter candidates z of the samples at `index` (positions, rising), in place."""
        rows = (broken | self.beaten(index, margin)).nonzero().squeeze(1)
        self.enter(index, z, margin, rows)
        if len(index) == len(self.margin):
            self.broken.logical_or_(broken)
        else:
            self.broken[index] |= broken

    def beaten(self, index: Tensor, margin: Tensor) -> Tensor:
        """Return which of the samples at `index` have a candidate of a larger margin, bool [b]."""
        everyone = len(index) == len(self.margin)  # then positions are rows, and gathers are saved
        return margin < (self.margin if everyone else self.margin[index])

    def enter(self, index: Tensor, z: Tensor, margin: Tensor, rows: Tensor, fallen: Tensor | None = None) -> None:
        """Enter some of the candidates z of the samples at `index`, in place.

        Args:
            rows: of the candidates, int64 [r].
            fallen: those of them that fool the victim, int64 [f]; None: none, or entered elsewhere.
        """
        everyone = len(index) == len(self.margin)
        if len(rows) == len(self.margin):
            self.z.copy_(z)
            self.margin.copy_(margin)
        elif len(rows):
            where = rows if everyone else index[rows]
            self.z.index_copy_(0, where, z.index_select(0, rows))
            self.margin[where] = margin[rows].to(self.margin.dtype)
        if fallen is not None and len(fallen):
            self.broken[fallen if everyone else index[fallen]] = True


def ascend(
    head: CountedHead,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    plan: Sequence[Step],
    best: BestCandidates,
    index: Tensor,
    *,
    threat: Threat,
    rng: Rng,
    target: Tensor | None = None,
    sparsity: float = 0.05,
    returning: bool = False,
) -> tuple[Tensor, Tensor]:
    """Ascend from `start` and enter the candidates into `best`.

    A sample leaves at once when a candidate of its fools the victim. The check uses the logits of the gradient pass, so
    each step costs one forward and one backward, and the end point one more forward.

    Args:
        x, y, start: images [b, C, H, W], labels [b] and legal start points of the samples to attack.
        index: their positions in `best`, int64 [b].
        target: class to move to, int64 [b]; None: away from y.
        sparsity: share of the entries that an l1 step moves.
        returning: end the run of a sample whose iterates return, with the candidates and the end point that all steps
            would give; for a plan of equal steps and a head that draws nothing.

    Returns:
        The positions in `best` of the survivors, int64 [s], and their end points [s, C, H, W].
    """
    z, region = start, PerturbationSet.around(threat, x)
    if not len(index):
        return index, z
    cycles, every = (ReturningIterates(len(plan), index) if returning else None), (y, rng)
    for number, step in enumerate(plan):
        draw = rng.stream(number)
        logits, gradient, doubtful = head.pulled(z, RowLoss(step.loss, y, target), draw)
        margin = margins(logits, y)
        masks = [best.beaten(index, margin), doubtful] + ([cycles.last(number, z)] if cycles else [])
        fallen, nearer, doubt, *last = head.fallen(z, logits, y, draw, *masks, margin=margin)
        if doubt.any():
            gradient = head.settled(gradient, draw)
        leaving = fallen | last[0] if cycles else fallen
        rows, lost, stay, ended = positions(z.device, fallen | nearer, fallen, ~leaving, leaving & ~fallen)
        best.enter(index, z, margin, rows, lost)
        if cycles and len(ended):
            cycles.leave(index[ended], z.index_select(0, ended))
        if len(stay) < len(index):
            if cycles:
                cycles.select(stay)
            y, index, z, gradient = y[stay], index[stay], z.index_select(0, stay), gradient.index_select(0, stay)
            target = None if target is None else target[stay]
            region, rng = region.select(stay), rng.select(stay)
            if not len(stay):
                break
        z = region.step(z, gradient, step.length, sparsity)
    if cycles and cycles.ended:
        index, z, at = cycles.merged(index, z)
        y, rng = every[0][at], every[1].select(at)
    if not len(index):
        return index, z
    draw = rng.stream(len(plan))
    logits = head.scores(z, draw)
    margin = margins(logits, y)
    fallen, nearer = head.fallen(z, logits, y, draw, best.beaten(index, margin), plain=True, margin=margin)
    rows, lost, stay = positions(z.device, fallen | nearer, fallen, ~fallen)
    best.enter(index, z, margin, rows, lost)
    return index[stay], z.index_select(0, stay)
