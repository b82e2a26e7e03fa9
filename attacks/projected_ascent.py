"""Projected ascent along a plan of steps: the loop that the gradient attacks share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gauntlet.attacks.losses import Cotangent, margins
from gauntlet.attacks.returning_iterates import ReturningIterates
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import (
    MOST_ROUNDS,
    Guess,
    HostIndex,
    HostMask,
    HostValues,
    RowLoss,
    doubtful,
    positions,
)
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
        return self.project(self._aim(z, gradient, length, sparsity))

    def stepped(
        self, z: Tensor, gradient: Tensor, length: Tensor | float, rounds: Guess, sparsity: float = 0.05
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what `step` does, by so many rounds and read by nobody yet, and in a list how many rounds that takes,
        [B]; empty: no more."""
        return self.projected(self._aim(z, gradient, length, sparsity), rounds)

    def projected(self, z: Tensor, rounds: Guess) -> tuple[Tensor, list[Tensor]]:
        """Return what `project` does, as `stepped` does."""
        if self.low is not None:
            return self.project(z), []
        point, taken = self.threat.projected(z, self.x, rounds.value)
        return point, [] if taken is None else [taken]

    def _aim(self, z: Tensor, gradient: Tensor, length: Tensor | float, sparsity: float) -> Tensor:
        return self.threat.steepest(gradient, sparsity).mul_(self.eps * length).add_(z)


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
        everyone = len(index) == len(self.margin)  # then positions are rows, and gathers are saved
        rows = (broken | (margin < (self.margin if everyone else self.margin[index]))).nonzero().squeeze(1)
        self.copy(z, rows, rows if everyone else index[rows])
        self.margin[rows if everyone else index[rows]] = margin[rows].to(self.margin.dtype)
        if everyone:
            self.broken.logical_or_(broken)
        else:
            self.broken[index] |= broken

    def copy(self, z: Tensor, rows: Tensor, places: Tensor) -> None:
        """Make some rows of z the candidates of the samples at `places`; both int64 [r], rising."""
        if len(rows) == len(self.z):
            self.z.copy_(z)
        elif len(rows):
            self.z.index_copy_(0, places, z.index_select(0, rows))


class RunCandidates:
    """The candidates of the samples of one run. What decides about a sample is kept on the host, where it is read, and
    is entered into the best candidates of all when the run ends.

    Args:
        best: candidates of all samples.
        index: positions of those of the run, int64 [b], rising,
        place: and the same on the host.
        margin: of their candidates so far, [b].

    Attributes:
        left: rows of `index` of the samples that are left.
        broken: which have fallen, [b].
    """

    def __init__(self, best: BestCandidates, index: Tensor, place: HostIndex, margin: HostValues) -> None:
        self.best, self._index, self._place, self._margin = best, index, place, margin
        self.broken = np.zeros(len(place), dtype=bool)
        self.left: HostIndex = np.arange(len(place))

    @classmethod
    def start(cls, best: BestCandidates, index: Tensor) -> "RunCandidates":
        """Start with what is known of the samples at `index`, by one read."""
        place, margin = torch.stack([index.double(), best.margin[index].double()]).cpu().numpy()
        narrow = best.margin.dtype == torch.float32
        return cls(best, index, place.astype(np.int64), margin.astype(np.float32) if narrow else margin)

    def enter(self, z: Tensor, margin: HostValues, fallen: HostMask, ended: HostMask | None = None) -> Tensor | None:
        """Enter candidates z of the samples that are left, of which those leave that have fallen or come to their end.

        Returns:
            The rows of z of the others, int64 on the device; None: none leaves.
        """
        rows = (fallen | (margin < self._margin[self.left])).nonzero()[0]
        where, stay = self.left[rows], (~fallen if ended is None else ~(fallen | ended)).nonzero()[0]
        self._margin[where] = margin[rows]
        self.broken[self.left] |= fallen
        if len(rows) or len(stay) < len(fallen):
            there, places, others = positions(z.device, rows, self._place[where], stay)
            self.best.copy(z, there, places)
        if len(stay) == len(fallen):
            return None
        self.left = self.left[stay]
        return others

    def close(self) -> Tensor:
        """Enter what is on the host; return the positions in `best` of those that are left, int64."""
        margin, broken = torch.from_numpy(self._margin), torch.from_numpy(self.broken)
        self.best.margin[self._index] = margin.to(self.best.margin, non_blocking=True)
        self.best.broken[self._index] |= broken.to(self.best.broken, non_blocking=True)
        return positions(self.best.z.device, self._place[self.left])[0]


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
    run, every = RunCandidates.start(best, index), (y, rng)
    cycles, rounds = ReturningIterates(len(plan)) if returning else None, Guess(8, MOST_ROUNDS, spare=0.5)
    for number, step in enumerate(plan):
        draw = rng.stream(number)
        logits, gradient, sums = head.pulled(z, RowLoss(step.loss, y, target), draw)
        last = [cycles.last(number, z)] if cycles else []
        # The next points come before the read, which says of them, too, whether they are right.
        ahead, taken = region.stepped(z, gradient, step.length, rounds, sparsity)
        fallen, margin, sums_there, *more = head.fallen(z, y, draw, margins(logits, y), sums, *last, *taken)
        doubt, ended = doubtful(sums_there).any(), more[: len(last)]
        if doubt or not all(rounds.enough(each) for each in more[len(last) :]):
            gradient = head.settled(gradient, draw) if doubt else gradient
            ahead = region.step(z, gradient, step.length, sparsity)
        if cycles:
            cycles.leave(run.left, z, ended[0] & ~fallen)
        stay = run.enter(z, margin, fallen, *ended)
        if stay is not None:
            if cycles:
                cycles.select(stay)
            y, ahead = y[stay], ahead.index_select(0, stay)
            target = None if target is None else target[stay]
            region, rng = region.select(stay), rng.select(stay)
        z = ahead
        if not len(z):
            break
    if cycles and cycles.ended:
        run.left, z = cycles.merged(run.left, z)
        (at,) = positions(z.device, run.left)
        y, rng = every[0][at], every[1].select(at)
    if len(z):
        draw = rng.stream(len(plan))
        fallen, margin = head.fallen(z, y, draw, margins(head.scores(z, draw), y), plain=True)
        stay = run.enter(z, margin, fallen)
        z = z if stay is None else z.index_select(0, stay)
    return run.close(), z
