"""Runs to one class each through a ball that is larger than the threat, judged inside it: the search of the CR attack.

A relaxed ball lets a run pass where the boundary bends away within eps (Efficient Robustness Evaluation via Constraint
Relaxation, AAAI 2025). Thresholds are shares of the clean margin, so that neither the scale of the logits nor a shift
of them changes the answer; the released code states them in units of logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gauntlet.attacks.losses import margin, margins
from gauntlet.attacks.projected_ascent import BestCandidates, PerturbationSet, RunCandidates
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import HostMask, HostValues, RowLoss, doubtful, positions, read_together
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
        tried = (mine if mine.dim() == 2 else mine[:, None].expand(order.shape)).cpu().numpy()
        wide = clean.cpu().numpy()
        least = np.full(order.shape, np.inf, dtype=wide.dtype)  # margin of each pair so far
        for number in range(1 + self.restarts):
            for rank in range(order.shape[1]):
                margin, broken = read_together([best.margin, best.broken])
                due = tried[:, rank] & ~broken
                at = (due if number == 0 else due & (least[:, rank] < self.near * wide)).nonzero()[0]
                if not len(at):
                    continue
                (index,) = positions(x.device, at)
                below = rng.select(index).stream(number).stream(rank)
                enter(number, below.ids)
                run = RelaxedRun(
                    head, RunCandidates(best, index, at, margin[at]), x[index], y[index], order[index, rank],
                    wide[at], least[at, rank], threat.select(index), below,
                    threat.select(index).random(x[index], below.stream("start")),
                )  # fmt: skip
                self._run(run)
                run.candidates.close()
                least[at, rank] = run.least

    def _run(self, run: "RelaxedRun") -> None:
        for number, scale in enumerate(self.scales()):
            run.walk(self.steps, scale, 1 + scale, (number, "relaxed"))
            if number == 0 and self.early is not None:
                run.keep(run.least[run.candidates.left] <= self.early * run.clean)
            run.walk(self.steps, scale, 1.0, (number, "inside"))
            run.judge((number, "middle"))
            run.keep(run.margin <= (self.bounds[number] if self.bounds else self.prune * scale) * run.clean)
            if not len(run.z):
                return
            run.shake(scale, (number, "shake"))
            run.walk(self.steps, scale, 1.0, (number, "again"))
        run.judge("end")


@dataclass
class RelaxedRun:
    """The run of some samples to one target each; all tensors are [b, ...] of those that are left.

    Attributes:
        candidates: of the samples of the run.
        clean: margin at the image, [b].
        least: margin of each sample of the run to this target so far, written in place.
        z: where they stand; inside eps but for the relaxed part.
        margin: of the label over the target at the point that was judged last, [b].
    """

    head: CountedHead
    candidates: RunCandidates
    x: Tensor
    y: Tensor
    target: Tensor
    clean: HostValues
    least: HostValues
    threat: Threat
    rng: Rng
    z: Tensor

    def __post_init__(self) -> None:
        self.margin = np.full_like(self.clean, np.inf)
        self._inside = PerturbationSet.around(self.threat, self.x)

    def walk(self, steps: int, length: float, reach: float, name: object) -> None:
        """Take steps of `length` eps in the ball of `reach` eps; each begins where its sample is judged.

        Where the ball is larger than eps a point is judged by its projection, at the price of one more forward, and
        the last point is brought back into eps.
        """
        if not len(self.z):
            return
        ball = self._inside if reach == 1 else self._ball(reach)
        for number in range(steps):
            draw = self.rng.stream(name).stream(number)
            logits, gradient, sums = self.head.pulled(self.z, RowLoss(margin, self.y, self.target), draw)
            if number and reach > 1:
                below = draw.stream("projected")
                z = self._inside.project(self.z.clone())
                stay, seen = self._note(z, self.head.scores(z, below), below, sums, plain=True)
            else:
                stay, seen = self._note(self.z, logits, draw, sums)
            if doubtful(seen[0]).any():
                gradient = self.head.settled(gradient, draw)
            if stay is not None:
                gradient, ball = gradient.index_select(0, stay), ball.select(stay)
            if not len(self.z):
                return
            self.z = ball.step(self.z, gradient, length / reach)
        if reach > 1:
            self.z = self._inside.project(self.z)

    def judge(self, name: object) -> None:
        """Judge where the samples stand."""
        if len(self.z):
            draw = self.rng.stream(name)
            self._note(self.z, self.head.scores(self.z, draw), draw, plain=True)

    def shake(self, scale: float, name: object) -> None:
        """Pull the points into the ball of eps (1 - scale), then go to a random point of a ball of scale eps there."""
        near = self._ball(1 - scale).project(self.z.clone())
        if self.threat.norm != "linf":
            factors = self.z.new_full((len(self.z),), scale)
            self.z = self._inside.project(self.threat.scaled(factors).random(near, self.rng.stream(name)))
            return
        noise = self.rng.stream(name).uniform(tuple(self.x.shape[1:]), -1, 1, dtype=self.x.dtype)
        self.z = self._inside.project(near + scale * self.threat.budget(self.x) * noise)

    def keep(self, mask: HostMask) -> None:
        """Drop the other samples; mask: bool [b]."""
        if not mask.all():
            self.candidates.left = self.candidates.left[mask]
            self._select(mask, positions(self.z.device, mask.nonzero()[0])[0])

    def _note(
        self, z: Tensor, logits: Tensor, draw: Rng, *columns: Tensor, plain: bool = False
    ) -> tuple[Tensor | None, list[HostValues]]:
        """Enter candidates; drop the samples that they break. Return the positions of the others, None for all, and the
        columns on the host."""
        own, other = logits.gather(1, self.y[:, None]), logits.gather(1, self.target[:, None])
        fallen, label, self.margin, *seen = self.head.fallen(
            z, self.y, draw, margins(logits, self.y), (own - other).squeeze(1), *columns, plain=plain
        )
        left = self.candidates.left
        self.least[left] = np.minimum(self.least[left], self.margin)
        stay = self.candidates.enter(z, label, fallen)
        if stay is not None:
            self._select(~fallen, stay)
        return stay, seen

    def _select(self, mask: HostMask, at: Tensor) -> None:
        """Keep the same samples, by a mask bool [b] and by positions."""
        self.x, self.y, self.z, self.target = (t.index_select(0, at) for t in (self.x, self.y, self.z, self.target))
        self.clean, self.margin = self.clean[mask], self.margin[mask]
        self.threat, self.rng, self._inside = self.threat.select(at), self.rng.select(at), self._inside.select(at)

    def _ball(self, reach: float) -> PerturbationSet:
        """Return the ball of `reach` eps of each sample."""
        return PerturbationSet.around(self.threat.scaled(self.z.new_full((len(self.z),), reach)), self.x)
