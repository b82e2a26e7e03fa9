"""Auto-PGD."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gauntlet.attacks.apgd_l1 import climb
from gauntlet.attacks.losses import SCORED, fewest_classes, margins, ranking, scored
from gauntlet.attacks.projected_ascent import BestCandidates, PerturbationSet, RunCandidates
from gauntlet.knobs import Knobs, choice, knob
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


@dataclass(frozen=True)
class APGD(Knobs, key="attack"):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690): momentum, and a step size that is halved where progress ends.

    The step starts at 2 eps. At check points, after 22 % of the steps and then ever more often, a sample whose loss
    rose in no more than `rho` of the last steps, or found no new best since a check that kept the step, goes back to
    its best point with half the step. A sample leaves as soon as a candidate fools the victim. For l1 the steps are
    sparse and the ball shrinks to eps (Croce and Hein 2021, arXiv 2103.01208): see `gauntlet.attacks.apgd_l1`.

    Args:
        steps: per run, >= 1.
        loss: ce, margin, dlr or mifpe; its value, which never saturates here, also decides about the step size.
        restarts: >= 1; only survivors are attacked again.
        targets: 0 for untargeted; n: each restart moves to each of the n best other classes of the clean image in turn.
        rho: share of rising steps below which the step is halved, in (0, 1); without effect for l1.
        draws: the fewest draws over which a gradient of a random head is averaged; 0: as many as the head has.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    MOMENTUM: ClassVar[float] = 0.75

    steps: int = knob(100, least=1)
    loss: str = choice("ce", SCORED)
    restarts: int = knob(1, least=1)
    targets: int = knob(0, least=0)
    rho: float = knob(0.75, above=0, below=1)
    draws: int = knob(0, least=0)

    @property
    def fewest_classes(self) -> int:
        """Return how many classes the model must have."""
        return fewest_classes(self.loss, self.targets > 0)

    def checkpoints(self) -> dict[int, int]:
        """Return the number of steps made at each check -> length of the window since the last one."""
        window, shrink, least = (max(int(share * self.steps), 1) for share in (0.22, 0.03, 0.06))
        found, done = {}, 0
        while done + window <= self.steps:
            done += window
            found[done] = window
            window = max(window - shrink, least)
        return found

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        head = head.drawn(self.draws) if self.draws else head
        order = None
        if self.targets and len(x):
            order = ranking(head.scores(x, rng.stream("targets")), y)
        self.toward(head, x, y, best, None if order is None else order[:, : self.targets], threat=threat, rng=rng)
        return best.z

    def toward(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        best: BestCandidates,
        order: Tensor | None,
        *,
        threat: Threat,
        rng: Rng,
    ) -> None:
        """Run to each of the targets in turn, in each restart, and enter the candidates into `best`.

        order: the targets of each sample, int64 [B, n]; None: one run away from the label.
        """
        run = partial(climb, loss=scored(self.loss), steps=self.steps) if threat.norm == "l1" else self._run
        for restart in range(self.restarts):
            for rank in range(1 if order is None else order.shape[1]):
                index = (~best.broken).nonzero().squeeze(1)
                if not len(index):
                    return
                below = rng.select(index).stream(restart).stream(rank)
                target = None if order is None else order[index, rank]
                run(head, x[index], y[index], best, index, threat.select(index), below, target)

    def _run(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        best: BestCandidates,
        index: Tensor,
        threat: Threat,
        rng: Rng,
        target: Tensor | None,
    ) -> None:
        loss, checks, region = scored(self.loss), self.checkpoints(), PerturbationSet.around(threat, x)
        state, candidates = APGDState.start(threat.edge(x, rng.stream("start"))), RunCandidates.start(best, index)
        progress: LossProgress | None = None
        rounds = Guess(8, MOST_ROUNDS, spare=0.5)
        for number in range(self.steps + 1):
            draw = rng.stream(number)
            logits, gradient, sums = head.pulled(state.z, RowLoss(loss.cotangent, y, target), draw)
            keep, checked = self.MOMENTUM if number else 1.0, number in checks
            # The next points come before the read, which says of them, too, whether they are right.
            ahead, taken = (state.z, []) if checked else state.ahead(gradient, region, keep, rounds)
            fallen, margin, sums_there, value, *more = head.fallen(
                state.z, y, draw, margins(logits, y), sums, loss.value(logits, y, target), *taken
            )
            if doubt := doubtful(sums_there).any():
                gradient = head.settled(gradient, draw)
            better = np.arange(len(value)) if progress is None else progress.observe(value)
            progress = progress or LossProgress(value)
            state = state.observe(gradient, better)
            stay = candidates.enter(state.z, margin, fallen)
            again = checked or doubt or not all(rounds.enough(each) for each in more)
            if stay is not None:
                y, region, state, ahead = y[stay], region.select(stay), state.select(stay), ahead[stay]
                target, rng = None if target is None else target[stay], rng.select(stay)
                progress.keep(~fallen)
            if not len(y):
                break
            if checked:
                state = state.check(progress.check(checks[number], self.rho))
            if again:
                ahead, _ = state.ahead(state.gradient, region, keep, None)
            state = state._replace(z=ahead, before=state.z)
        candidates.close()


class LossProgress:
    """How the loss of each sample that is left went, on the host; all arrays [b].

    Args:
        value: of the loss at the first point.
    """

    def __init__(self, value: HostValues) -> None:
        self.value = value  # at the last point
        self.top_value = value  # the largest,
        self.last_top = value  # and what that was at the last check
        self.rises = np.zeros(len(value), dtype=np.int64)  # steps since the last check in which the loss rose
        self.halved = np.ones(len(value), dtype=bool)  # whether the step was halved at the last check

    def observe(self, value: HostValues) -> HostIndex:
        """Take in the loss at the next point; return the samples for which it is the largest so far."""
        better = value > self.top_value
        self.rises += value > self.value
        self.value, self.top_value = value, np.where(better, value, self.top_value)
        return better.nonzero()[0]

    def check(self, window: int, rho: float) -> HostMask:
        """Return which samples get nowhere, and begin another window."""
        stuck = (self.rises <= np.float32(rho * window)) | (~self.halved & (self.last_top >= self.top_value))
        self.rises[:], self.last_top, self.halved = 0, self.top_value, stuck
        return stuck

    def keep(self, mask: HostMask) -> None:
        """Drop the other samples."""
        for name, column in vars(self).items():
            setattr(self, name, column[mask])


class APGDState(NamedTuple):
    """The run of each sample that is left: all tensors [b, ...]. Rows of `top` and `top_gradient` are written in
    place."""

    z: Tensor
    before: Tensor  # the point before z
    gradient: Tensor  # at z
    step: Tensor  # multiple of eps
    top: Tensor  # the point of largest loss,
    top_gradient: Tensor  # and its gradient

    @classmethod
    def start(cls, z: Tensor) -> "APGDState":
        return cls(z, z, z, z.new_full((len(z),), 2.0), torch.empty_like(z), torch.empty_like(z))

    def select(self, index: Tensor) -> "APGDState":
        return APGDState(*(item.index_select(0, index) for item in self))

    def observe(self, gradient: Tensor, better: HostIndex) -> "APGDState":
        """Return the state with the gradient at z; better: the samples whose best point that is."""
        if len(better) == len(self.z):
            self.top.copy_(self.z)
            self.top_gradient.copy_(gradient)
        elif len(better):
            (rows,) = positions(self.z.device, better)
            self.top.index_copy_(0, rows, self.z.index_select(0, rows))
            self.top_gradient.index_copy_(0, rows, gradient.index_select(0, rows))
        return self._replace(gradient=gradient)

    def check(self, stuck: HostMask) -> "APGDState":
        """Halve the step of the samples that get nowhere, and put them back to their best point."""
        halve, (rows,) = torch.from_numpy(stuck).to(self.z.device), positions(self.z.device, stuck.nonzero()[0])
        return self._replace(
            z=self.z.index_copy(0, rows, self.top.index_select(0, rows)),
            gradient=self.gradient.index_copy(0, rows, self.top_gradient.index_select(0, rows)),
            step=torch.where(halve, self.step / 2, self.step),
        )

    def ahead(
        self, gradient: Tensor, region: PerturbationSet, keep: float, rounds: Guess | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the points after one step with momentum, and in a list how many rounds they take, [b], of which so
        many are made; keep: share of the new direction; rounds: None: as many as it takes.
        """
        length, taken = self.step.reshape(-1, *[1] * (self.z.dim() - 1)), list[Tensor]()
        if rounds is None:
            ahead = region.step(self.z, gradient, length)
        else:
            ahead, taken = region.stepped(self.z, gradient, length, rounds)
        drift = (self.z - self.before).mul_(1 - keep)
        aim = ahead.sub_(self.z).mul_(keep).add_(self.z).add_(drift)
        if rounds is None:
            return region.project(aim), []
        point, more = region.projected(aim, rounds)
        return point, [one.maximum(two) for one, two in zip(taken, more, strict=True)]
