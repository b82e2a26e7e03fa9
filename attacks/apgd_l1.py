"""Auto-PGD for l1: sparse steps, as sparse as the best point so far, from large balls to the one that counts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import Cotangent, Loss, margins, scored
from gauntlet.attacks.projected_ascent import BestCandidates, RunCandidates, Step
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import MOST_ROUNDS, Guess, RowLoss, doubtful
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

MARGIN = scored("margin")

SPREAD = 1.5
"""A step moves as many entries as the best point has changed, divided by this."""

SLOWER, LEAST = 1.5, 0.1
"""A step that does not make the best point sparser is divided by the first, down to the second times the radius."""


def phases(steps: int) -> list[tuple[float, int]]:
    """Return (multiple of eps, steps): 30 % at 3 eps, 30 % at 2 eps, the rest at eps; less than three steps are all at
    eps."""
    early = math.ceil(0.3 * steps) if steps >= 3 else 0
    return [(3.0, early), (2.0, early), (1.0, steps - 2 * early)] if early else [(1.0, steps)]


def climb(
    head: CountedHead,
    x: Tensor,
    y: Tensor,
    best: BestCandidates,
    index: Tensor,
    threat: Threat,
    rng: Rng,
    target: Tensor | None,
    *,
    loss: Loss,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Make one run of the l1 form of Auto-PGD (Croce and Hein 2021, arXiv 2103.01208); enter what is found into `best`.

    Each step moves the entries of largest gradient, 2/3 as many as the best point has changed, by equal amounts. Each
    phase starts at the best point of the one before. Only in the last, whose ball is the threat, can a sample leave.

    Args:
        x, y, index: images [b, C, H, W], labels [b] and their positions in `best`, int64 [b].
        target: class to move to, int64 [b]; None: away from y.

    Returns:
        As `gauntlet.attacks.projected_ascent.ascend`.
    """
    start = sparse_start(x, rng)
    losses = [loss.cotangent] * steps
    return _climb(head, x, y, start, losses, loss.value, best, index, threat=threat, rng=rng, target=target)


def sparse_start(x: Tensor, rng: Rng) -> Tensor:
    """Return the images with noise, whose projection on an l1 ball is a sparse point on its boundary, like x."""
    return x + rng.stream("start").normal(tuple(x.shape[1:]), dtype=x.dtype)


def sparse_ascent(
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
    sparsity: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Ascend the losses of a plan under l1 in the way of `climb`; the lengths of its steps are left to that.

    Steps of one sparsity for all, as `gauntlet.attacks.projected_ascent.ascend` takes them under l1, leave many
    samples that steps as sparse as the best point so far break. The margin says which point is the best, whatever the
    loss of a step. Arguments and result are those of `ascend`.

    Args:
        sparsity: share of the entries that the first steps move; None: 2/3 of those in which the start differs.
    """
    losses = [step.loss for step in plan]
    return _climb(
        head, x, y, start, losses, MARGIN.value, best, index, threat=threat, rng=rng, target=target, sparsity=sparsity
    )


def _climb(
    head: CountedHead,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    losses: Sequence[Cotangent],
    worth: Cotangent,
    best: BestCandidates,
    index: Tensor,
    *,
    threat: Threat,
    rng: Rng,
    target: Tensor | None,
    sparsity: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Ascend from z by a loss for each step; worth: the value by which the best point is known."""
    if not len(x):
        return index, z
    run, done = RunCandidates.start(best, index), 0
    entries, rounds = Guess(1, x[0].numel(), spare=0.5), Guess(8, MOST_ROUNDS, spare=0.5)
    changed = None if sparsity is None else x.new_full((len(x),), SPREAD * sparsity * x[0].numel())
    for factor, count in phases(len(losses)):
        around, below = threat.scaled(x.new_full((len(x),), factor)), rng.stream(factor)
        z, state, window = around.project(z, x), None, max(int(0.04 * count), 1)
        for number in range(count + 1):
            draw, loss = below.stream(number), losses[min(done + number, len(losses) - 1)]
            logits, gradient, sums = head.pulled(z, RowLoss(loss, y, target), draw)
            seen = SeenPoint(state, x, z, worth(logits, y, target), changed, number > 0 and number % window == 0)
            # The next points come before the read, which says of them, too, whether they are right.
            state = seen.state(gradient)
            ahead, taken = around.projected(state.ahead(around, x, entries.value), x, rounds.value)
            assert taken is not None  # under l1
            columns = sums, state.entries.to(x.dtype), taken
            if factor == 1:
                fallen, margin, *there = head.fallen(z, y, draw, margins(logits, y), *columns)
            else:
                there = [*head.passes.read(*columns)]
            doubt, *enough = doubtful(there[0]).any(), entries.enough(there[1]), rounds.enough(there[2])
            if doubt or not all(enough):
                state = seen.state(head.settled(gradient, draw)) if doubt else state
                ahead = around.project(state.ahead(around, x, entries.value), x)
            if factor == 1 and (stay := run.enter(z, margin, fallen)) is not None:
                if not len(stay):
                    return run.close(), z[stay]
                x, y, ahead, state = x[stay], y[stay], ahead[stay], state.select(stay)
                target = None if target is None else target[stay]
                around, below = around.select(stay), below.select(stay)
            z, changed = ahead if number < count else state.top, None
        done += count
    return run.close(), z


class APGDL1State(NamedTuple):
    """One phase of each sample: all tensors [B, ...]."""

    z: Tensor
    gradient: Tensor  # at z
    step: Tensor  # multiple of the radius
    changed: Tensor  # entries that the best point had changed at the last check
    top: Tensor  # the point of largest loss,
    top_gradient: Tensor  # its gradient
    top_value: Tensor  # and its loss

    @classmethod
    def start(cls, x: Tensor, z: Tensor, gradient: Tensor, value: Tensor) -> "APGDL1State":
        return cls(z, gradient, x.new_ones(len(x)), _changed(z, x), z, gradient, value)

    @property
    def entries(self) -> Tensor:
        """Return how many entries the next step moves, int64 [B]."""
        return (self.changed / SPREAD).ceil().long().clamp(1, self.z[:1].numel())

    def select(self, index: Tensor) -> "APGDL1State":
        return APGDL1State(*(item.index_select(0, index) for item in self))

    def observe(self, z: Tensor, gradient: Tensor, value: Tensor) -> "APGDL1State":
        """Return the state after the loss at the new point z is known."""
        better = value > self.top_value
        there = better.reshape(-1, *[1] * (z.dim() - 1))
        return self._replace(
            z=z,
            gradient=gradient,
            top=torch.where(there, z, self.top),
            top_gradient=torch.where(there, gradient, self.top_gradient),
            top_value=torch.where(better, value, self.top_value),
        )

    def check(self, x: Tensor) -> "APGDL1State":
        """Back to the best point with the full step where that has become sparser by 5 %, else a shorter step."""
        changed = _changed(self.top, x)
        sparser = changed < 0.95 * self.changed
        there = sparser.reshape(-1, *[1] * (x.dim() - 1))
        return self._replace(
            z=torch.where(there, self.top, self.z),
            gradient=torch.where(there, self.top_gradient, self.gradient),
            step=torch.where(sparser, 1.0, (self.step / SLOWER).clamp_min(LEAST)),
            changed=changed,
        )

    def ahead(self, threat: Threat, x: Tensor, most: int) -> Tensor:
        """Return the next point, not yet inside the threat; most: entries that a step moves, at least `entries`."""
        size, count = self.gradient.abs().flatten(1), self.entries[:, None]
        least = size.topk(min(most, size.shape[1]), dim=1).values.gather(1, count.clamp_max(most) - 1)
        direction = self.gradient.flatten(1).sign() * (size >= least)
        direction = direction / direction.abs().sum(1, keepdim=True).clamp_min(1.0) * self.step[:, None]
        return self.z + threat.budget(x) * direction.reshape(x.shape)


class SeenPoint(NamedTuple):
    """What is known of each sample after a pass, but for its gradient."""

    before: APGDL1State | None  # None: the point is the first
    x: Tensor
    z: Tensor
    value: Tensor  # of the loss
    changed: Tensor | None  # as of the state, where that is the first; None: those of z
    check: bool  # whether the step is checked

    def state(self, gradient: Tensor) -> APGDL1State:
        """Return the state after the pass."""
        if self.before is not None:
            state = self.before.observe(self.z, gradient, self.value)
        else:
            state = APGDL1State.start(self.x, self.z, gradient, self.value)
            state = state if self.changed is None else state._replace(changed=self.changed)
        return state.check(self.x) if self.check else state


def _changed(z: Tensor, x: Tensor) -> Tensor:
    """Count the entries in which z differs from x, [B], in the dtype of x."""
    return (z != x).flatten(1).sum(1).to(x.dtype)
