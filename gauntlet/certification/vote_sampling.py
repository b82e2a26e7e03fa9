"""Draws votes for many images at once, in passes of one size, until a rule has seen enough of each.

A row of a pass is one image and one draw number. Images take turns in their order: the pass is filled from the first
that still needs draws, so that one that is decided frees its rows at once, and images finish one after the other. Which
draws an image gets depends on its id and on nothing else.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.certification.certifiable import Mechanism
from gauntlet.certification.certifier import Work
from gauntlet.threat_model.rng import Rng

Ints = NDArray[np.int64]

SELECTION = 1 << 31
"""Draw numbers from here on choose the class; those below are for the bound. They never meet."""


class Plan(Protocol):
    """When to look at the votes of an image, and when to stop.

    Attributes:
        selection: draws that choose the class; 0 = none.
        looks: numbers of draws at which `ended` is asked; at the last of them it is over.
    """

    @property
    def selection(self) -> int: ...

    @property
    def looks(self) -> tuple[int, ...]: ...

    def hopeful(self, at: Ints, votes: Ints) -> NDArray[np.bool_]:
        """Return whether to go on, bool [b], after a selection. at: positions of the images; votes: int64 [b, V, K]."""

    def ended(self, at: Ints, look: int, votes: Ints) -> NDArray[np.bool_]:
        """Return whether to stop, bool [b], at look number `look`; the votes are those since the selection."""


@dataclass(frozen=True)
class VoteCounts:
    """Votes for each of n images.

    Attributes:
        selection, votes: int64 [n, V, K]; the first chose the class, the second are independent of it.
        drawn: draws behind `votes`, int64 [n].
        forwards: int64 [n].
    """

    selection: Ints
    votes: Ints
    drawn: Ints
    forwards: Ints


@torch.no_grad()
def count(mechanism: Mechanism, x: Tensor, rng: Rng, classes: int, plan: Plan, work: Work) -> VoteCounts:
    """Draw the votes of images x [n, C, H, W] by this plan."""
    n, voters = len(x), mechanism.voters
    shape = (2, n, voters, classes + 1)  # the last one: votes for no class
    tally = torch.zeros(math.prod(shape), dtype=torch.int64, device=x.device)
    targets = np.array([plan.selection, *plan.looks])
    stage = np.full(n, 0 if plan.selection else 1)  # 0: selection; j: on the way to look j - 1
    issued, total = np.zeros(n, np.int64), np.zeros(n, np.int64)
    active = np.ones(n, bool)
    while active.any():
        at = np.flatnonzero(active)
        need = targets[stage[at]] - issued[at]
        room = work.batch_size - (np.cumsum(need) - need)
        take = np.clip(np.minimum(need, room), 0, None)
        at, take = at[take > 0], take[take > 0]
        _draw(mechanism, x, rng, tally.view(shape), at, take, issued[at], stage[at] == 0)
        issued[at] += take
        total[at] += take
        reached = at[issued[at] == targets[stage[at]]]
        if len(reached):
            seen = tally.view(shape)[:, torch.from_numpy(reached).to(x.device), :, :-1].cpu().numpy()
            _look(plan, reached, seen, stage, issued, active)
        work.advance(int((~active[at]).sum()), int(take.sum()) * voters)
    both = tally.view(shape)[..., :-1].cpu().numpy()
    drawn = np.where(stage == 0, 0, issued)
    return VoteCounts(both[0], both[1], drawn, total * voters)


def _draw(
    mechanism: Mechanism, x: Tensor, rng: Rng, tally: Tensor, at: Ints, take: Ints, first: Ints, chooses: Ints
) -> None:
    """One pass: `take` draws for each image of `at`, numbered from `first`; their votes are added to the tally."""
    ends = np.cumsum(take)
    number = np.arange(ends[-1]) - np.repeat(ends - take - first, take)
    rows, phase = (torch.from_numpy(np.repeat(v, take)).to(x.device) for v in (at, 1 - chooses))
    draw = torch.from_numpy(number).to(x.device) + (1 - phase) * SELECTION
    votes = mechanism.votes(x[rows], rng.select(rows), draw)
    _, n, voters, classes = tally.shape
    cell = ((phase * n + rows)[:, None] * voters + torch.arange(voters, device=x.device)) * classes + votes
    tally.view(-1).add_(torch.bincount(cell.flatten(), minlength=tally.numel()))


def _look(plan: Plan, reached: Ints, seen: Ints, stage: Ints, issued: Ints, active: NDArray[np.bool_]) -> None:
    """Ask the plan about the images that have the draws it waited for. seen: int64 [2, b, V, K]."""
    where = stage[reached]  # as it was: what advances now has no votes yet for the look after
    chosen = reached[where == 0]
    if len(chosen):
        active[chosen] = plan.hopeful(chosen, seen[0, where == 0])
        going = chosen[active[chosen]]
        stage[going], issued[going] = 1, 0
    for look in np.unique(where[where > 0]):
        at = reached[where == look]
        done = plan.ended(at, int(look) - 1, seen[1, where == look])
        active[at] = ~done & (look < len(plan.looks))
        stage[at[active[at]]] += 1
