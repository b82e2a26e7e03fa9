"""Auto-PGD."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.apgd_l1 import climb
from gauntlet.attacks.losses import SCORED, fewest_classes, margins, ranking, scored
from gauntlet.attacks.projected_ascent import BestCandidates, PerturbationSet
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import HostMask, RowLoss, positions
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
        z = threat.edge(x, rng.stream("start"))
        state: APGDState | None = None
        for number in range(self.steps + 1):
            draw = rng.stream(number)
            logits, gradient, doubtful = head.pulled(z, RowLoss(loss.cotangent, y, target), draw)
            margin, value = margins(logits, y), loss.value(logits, y, target)
            better = torch.ones_like(doubtful) if state is None else value > state.top_value
            state = APGDState.start(z, gradient, value) if state is None else state.observe(gradient, value, better)
            window = checks.get(number)
            stuck = better if window is None else state.stuck(window, self.rho)
            masks = best.beaten(index, margin), doubtful, better, stuck
            fallen, nearer, doubt, rising, halved = head.fallen(z, logits, y, draw, *masks, margin=margin)
            if doubt.any():
                state = state._replace(gradient=head.settled(gradient, draw))
            rows, lost, stay, top = positions(z.device, fallen | nearer, fallen, ~fallen, rising)
            best.enter(index, z, margin, rows, lost)
            state.keep(top)
            if len(lost):
                if not len(stay):
                    return
                y, index, region, state = y[stay], index[stay], region.select(stay), state.select(stay)
                target, rng = None if target is None else target[stay], rng.select(stay)
            if window is not None:
                state = state.check(halved[~fallen])
            if number < self.steps:
                state = state.advance(region, self.MOMENTUM if number else 1.0)
                z = state.z


class APGDState(NamedTuple):
    """The run of each sample: all tensors [B, ...]. Rows of `top` and `top_gradient` are written in place."""

    z: Tensor
    before: Tensor  # the point before z
    gradient: Tensor  # at z
    step: Tensor  # multiple of eps
    value: Tensor  # of the loss at z
    rises: Tensor  # steps since the last check in which the loss rose
    top: Tensor  # the point of largest loss,
    top_gradient: Tensor  # its gradient
    top_value: Tensor  # and its loss
    last_top: Tensor  # loss of the best point at the last check
    halved: Tensor  # whether the step was halved at the last check

    @classmethod
    def start(cls, z: Tensor, gradient: Tensor, value: Tensor) -> "APGDState":
        return cls(
            z, z, gradient, z.new_full((len(z),), 2.0), value, torch.zeros_like(value, dtype=torch.int64),
            torch.empty_like(z), torch.empty_like(gradient), value, value, torch.ones_like(value, dtype=torch.bool),
        )  # fmt: skip

    def select(self, index: Tensor) -> "APGDState":
        return APGDState(*(item.index_select(0, index) for item in self))

    def observe(self, gradient: Tensor, value: Tensor, better: Tensor) -> "APGDState":
        """Return the state after the loss at z is known, but for the best points: see `keep`.

        better: where it exceeds that of the best point, bool [b].
        """
        return self._replace(
            gradient=gradient,
            value=value,
            rises=self.rises + (value > self.value),
            top_value=torch.where(better, value, self.top_value),
        )

    def keep(self, rows: Tensor) -> None:
        """Write down where some of the samples are as their best points; positions int64."""
        if len(rows) == len(self.z):
            self.top.copy_(self.z)
            self.top_gradient.copy_(self.gradient)
        elif len(rows):
            self.top.index_copy_(0, rows, self.z.index_select(0, rows))
            self.top_gradient.index_copy_(0, rows, self.gradient.index_select(0, rows))

    def stuck(self, window: int, rho: float) -> Tensor:
        """Return which samples get nowhere, bool [b]."""
        return (self.rises <= rho * window) | (~self.halved & (self.last_top >= self.top_value))

    def check(self, stuck: HostMask) -> "APGDState":
        """Halve the step of the samples that get nowhere, and put them back to their best point."""
        halve, (rows,) = torch.from_numpy(stuck).to(self.z.device), positions(self.z.device, stuck)
        return self._replace(
            z=self.z.index_copy(0, rows, self.top.index_select(0, rows)),
            gradient=self.gradient.index_copy(0, rows, self.top_gradient.index_select(0, rows)),
            rises=torch.zeros_like(self.rises),
            step=torch.where(halve, self.step / 2, self.step),
            last_top=self.top_value,
            halved=halve,
        )

    def advance(self, region: PerturbationSet, keep: float) -> "APGDState":
        """Take one step with momentum; keep: share of the new direction."""
        ahead = region.step(self.z, self.gradient, self.step.reshape(-1, *[1] * (self.z.dim() - 1)))
        drift = (self.z - self.before).mul_(1 - keep)
        z = region.project(ahead.sub_(self.z).mul_(keep).add_(self.z).add_(drift))
        return self._replace(z=z, before=self.z)
