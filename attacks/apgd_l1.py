"""Auto-PGD for l1: sparse steps, as sparse as the best point so far, from large balls to the one that counts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import Cotangent, Loss, margins, scored
from gauntlet.attacks.projected_ascent import BestCandidates, Step
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
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
    done, changed = 0, None if sparsity is None else x.new_full((len(x),), SPREAD * sparsity * x[:1].numel())
    for factor, count in phases(len(losses)) if len(x) else ():
        around, below = threat.scaled(x.new_full((len(x),), factor)), rng.stream(factor)
        z, state = around.project(z, x), None
        window = max(int(0.04 * count), 1)
        for number in range(count + 1):
            draw, loss = below.stream(number), losses[min(done + number, len(losses) - 1)]
            logits, gradient = head.gradient(z, RowLoss(loss, y, target), draw)
            value = worth(logits, y, target)
            if state is None:
                state = APGDL1State.start(x, z, gradient, value)
                state = state if done or changed is None else state._replace(changed=changed)
            else:
                state = state.observe(z, gradient, value)
            if factor == 1:
                margin = margins(logits, y)
                broken = head.broken(z, logits, y, draw, margin=margin)
                best.note(index, z, margin, broken)
                if broken.any():
                    stay = (~broken).nonzero().squeeze(1)
                    if not len(stay):
                        return index[stay], z[stay]
                    x, y, z, index, state = x[stay], y[stay], z[stay], index[stay], state.select(stay)
                    target = None if target is None else target[stay]
                    around, below = around.select(stay), below.select(stay)
            if number and number % window == 0:
                state = state.check(x)
            z = state.ahead(around, x) if number < count else state.top
        done += count
    return index, z


class APGDL1State(NamedTuple):
    """One phase of each sample: all tensors [B, ...]. Rows of `top` and `top_gradient` are written in place."""

    z: Tensor
    gradient: Tensor  # at z
    step: Tensor  # multiple of the radius
    changed: Tensor  # entries that the best point had changed at the last check
    top: Tensor  # the point of largest loss,
    top_gradient: Tensor  # its gradient
    top_value: Tensor  # and its loss

    @classmethod
    def start(cls, x: Tensor, z: Tensor, gradient: Tensor, value: Tensor) -> "APGDL1State":
        return cls(z, gradient, x.new_ones(len(x)), _changed(z, x), z.clone(), gradient.clone(), value)

    def select(self, index: Tensor) -> "APGDL1State":
        return APGDL1State(*(item.index_select(0, index) for item in self))

    def observe(self, z: Tensor, gradient: Tensor, value: Tensor) -> "APGDL1State":
        """Return the state after the loss at the new point z is known."""
        better = value > self.top_value
        rows = better.nonzero().squeeze(1)
        self.top.index_copy_(0, rows, z.index_select(0, rows))
        self.top_gradient.index_copy_(0, rows, gradient.index_select(0, rows))
        return self._replace(
            z=z,
            gradient=gradient,
            top_value=torch.where(better, value, self.top_value),
        )

    def check(self, x: Tensor) -> "APGDL1State":
        """Back to the best point with the full step where that has become sparser by 5 %, else a shorter step."""
        changed = _changed(self.top, x)
        sparser = changed < 0.95 * self.changed
        rows = sparser.nonzero().squeeze(1)
        return self._replace(
            z=self.z.index_copy(0, rows, self.top.index_select(0, rows)),
            gradient=self.gradient.index_copy(0, rows, self.top_gradient.index_select(0, rows)),
            step=torch.where(sparser, 1.0, (self.step / SLOWER).clamp_min(LEAST)),
            changed=changed,
        )

    def ahead(self, threat: Threat, x: Tensor) -> Tensor:
        """Return the next point."""
        size = self.gradient.abs().flatten(1)
        count = (self.changed / SPREAD).ceil().long().clamp(1, size.shape[1])[:, None]
        least = size.topk(int(count.max()), dim=1).values.gather(1, count - 1)
        direction = self.gradient.flatten(1).sign() * (size >= least)
        direction = direction / direction.abs().sum(1, keepdim=True).clamp_min(1.0) * self.step[:, None]
        return threat.project(self.z + threat.budget(x) * direction.reshape(x.shape), x)


def _changed(z: Tensor, x: Tensor) -> Tensor:
    """Count the entries in which z differs from x, [B], in the dtype of x."""
    return (z != x).flatten(1).sum(1).to(x.dtype)
