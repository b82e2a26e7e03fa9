"""Runs to one class each through a ball that is larger than the threat, judged inside it: the search of the CR attack.

A relaxed ball lets a run pass where the boundary bends away within eps (Efficient Robustness Evaluation via Constraint
Relaxation, AAAI 2025). Thresholds are shares of the clean margin, so that neither the scale of the logits nor a shift
of them changes the answer; the released code states them in units of logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.attacks.losses import margin, margins
from gauntlet.attacks.projected_ascent import BestCandidates, PerturbationSet
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import RowLoss
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

SCALES = (0.5, 0.25, 0.125, 0.0625)
"""Scale of each cycle: how much larger than eps the relaxed ball is, and how long a step, as shares of eps."""

LAST_SCALE = 0.05
"""Scale of all later cycles."""


@dataclass(frozen=True)
class RelaxedSearch:
    """Runs of some cycles to each of some classes, and again for the pairs of sample and class that came close.

    Args:
        cycles: of each run, >= 1.
        steps: of each of the three parts of a cycle, >= 1.
        restarts: more rounds over the classes, >= 0.
        prune: a sample leaves a run whose margin exceeds prune times scale times its clean margin, > 0.
        near: share of the clean margin below which a pair must have come to be tried again, >= 0.
        early: share of the clean margin below which a run must come in the relaxed part of its first cycle, or None.
        bounds: share of the clean margin beyond which a sample leaves, of each cycle; empty: prune times scale.
    """

    cycles: int = 5
    steps: int = 10
    restarts: int = 4
    prune: float = 0.5
    near: float = 0.03
    early: float | None = None
    bounds: tuple[float, ...] = ()

    def scales(self) -> list[float]:
        """Return the scale of each cycle."""
        return [*SCALES, *[LAST_SCALE] * self.cycles][: self.cycles]

    @property
    def most_gradients(self) -> int:
        """Return the most gradients of a sample for each class."""
        return 3 * self.steps * self.cycles * (1 + self.restarts)

    def search(
        self,
        head: CountedHead,
        best: BestCandidates,
        mine: Tensor,
        x: Tensor,
        y: Tensor,
        order: Tensor,
        clean: Tensor,
        *,
        threat: Threat,
        rng: Rng,
        enter: Callable[[int, Tensor], None] = lambda number, ids: None,
    ) -> None:
        """Search, and enter candidates into `best`.

        Args:
            mine: which samples are tried, bool [B], or bool [B, targets] where it depends on the class.
            order: the classes to move to, int64 [B, targets].
            clean: margins at the images, [B].
            enter: called with the number of a round and the ids of its samples.
        """
        least = clean.new_full(order.shape, torch.inf)  # margin of each pair so far
        for number in range(1 + self.restarts):
            for rank in range(order.shape[1]):
                due = (mine if mine.dim() == 1 else mine[:, rank]) & ~best.broken
                index = (due if number == 0 else due & (least[:, rank] < self.near * clean)).nonzero().squeeze(1)
                if not len(index):
                    continue
                below = rng.select(index).stream(number).stream(rank)
                enter(number, below.ids)
                run = RelaxedRun(
                    head, best, index, x[index], y[index], order[index, rank], clean[index], least[:, rank],
                    threat.select(index), below, threat.select(index).random(x[index], below.stream("start")),
                )  # fmt: skip
                self._run(run)

    def _run(self, run: "RelaxedRun") -> None:
        for number, scale in enumerate(self.scales()):
            run.walk(self.steps, scale, 1 + scale, (number, "relaxed"))
            if number == 0 and self.early is not None:
                run.keep(run.least[run.index] <= self.early * run.clean)
            run.walk(self.steps, scale, 1.0, (number, "inside"))
            run.judge((number, "middle"))
            run.keep(run.margin <= (self.bounds[number] if self.bounds else self.prune * scale) * run.clean)
            if not len(run.index):
                return
            run.shake(scale, (number, "shake"))
            run.walk(self.steps, scale, 1.0, (number, "again"))
        run.judge("end")


@dataclass
class RelaxedRun:
    """The run of some samples to one target each; all tensors are [b, ...] of those that are left.

    Attributes:
        best: candidates of all samples.
        index: the samples' positions in `best` and in `least`.
        clean: margin at the image.
        least: margin of each sample to this target so far, float [B], written in place.
        z: where they stand; inside eps but for the relaxed part.
        margin: of the label over the target at the point that was judged last.
    """

    head: CountedHead
    best: BestCandidates
    index: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    clean: Tensor
    least: Tensor
    threat: Threat
    rng: Rng
    z: Tensor

    def __post_init__(self) -> None:
        self.margin = torch.full_like(self.clean, torch.inf)

    def walk(self, steps: int, length: float, reach: float, name: object) -> None:
        """Take steps of `length` eps in the ball of `reach` eps; each begins where its sample is judged.

        Where the ball is larger than eps a point is judged by its projection, at the price of one more forward, and
        the last point is brought back into eps.
        """
        for number in range(steps):
            if not len(self.index):
                return
            draw = self.rng.stream(name).stream(number)
            logits, gradient = self.head.gradient(self.z, RowLoss(margin, self.y, self.target), draw)
            inside = self._inside()
            if number and reach > 1:
                z, draw = inside.project(self.z.clone()), draw.stream("projected")
                stay = self._note(z, self.head.scores(z, draw), draw, plain=True)
            else:
                stay = self._note(self.z, logits, draw)
            gradient = gradient if stay is None else gradient[stay]
            factors = self.z.new_full((len(self.index),), reach)
            ball = self._inside() if reach == 1 else PerturbationSet.around(self.threat.scaled(factors), self.x)
            self.z = ball.step(self.z, gradient, length / reach)
        if reach > 1 and len(self.index):
            self.z = self._inside().project(self.z)

    def judge(self, name: object) -> None:
        """Judge where the samples stand."""
        if len(self.index):
            draw = self.rng.stream(name)
            self._note(self.z, self.head.scores(self.z, draw), draw, plain=True)

    def shake(self, scale: float, name: object) -> None:
        """Pull the points into the ball of eps (1 - scale), then go to a random point of a ball of scale eps there."""
        factors = self.z.new_full((len(self.index),), 1 - scale)
        near = PerturbationSet.around(self.threat.scaled(factors), self.x).project(self.z.clone())
        if self.threat.norm != "linf":
            around = self.threat.scaled(torch.full_like(factors, scale)).random(near, self.rng.stream(name))
            self.z = self._inside().project(around)
            return
        noise = self.rng.stream(name).uniform(tuple(self.x.shape[1:]), -1, 1, dtype=self.x.dtype)
        self.z = self._inside().project(near + scale * self.threat.budget(self.x) * noise)

    def keep(self, mask: Tensor) -> None:
        """Drop the other samples; mask: bool [b]."""
        if not mask.all():
            self._select(mask.nonzero().squeeze(1))

    def _note(self, z: Tensor, logits: Tensor, draw: Rng, plain: bool = False) -> Tensor | None:
        """Enter candidates; drop the samples that they break. Return the positions of the others, None for all."""
        broken = self.head.broken(z, logits, self.y, draw, plain)
        self.best.note(self.index, z, margins(logits, self.y), broken)
        self.margin = (logits.gather(1, self.y[:, None]) - logits.gather(1, self.target[:, None])).squeeze(1)
        self.least[self.index] = self.least[self.index].minimum(self.margin)
        if not broken.any():
            return None
        stay = (~broken).nonzero().squeeze(1)
        self._select(stay)
        return stay

    def _select(self, at: Tensor) -> None:
        self.index, self.x, self.y, self.z = (t.index_select(0, at) for t in (self.index, self.x, self.y, self.z))
        self.target, self.clean, self.margin = (t.index_select(0, at) for t in (self.target, self.clean, self.margin))
        self.threat, self.rng = self.threat.select(at), self.rng.select(at)

    def _inside(self) -> PerturbationSet:
        return PerturbationSet.around(self.threat, self.x)
