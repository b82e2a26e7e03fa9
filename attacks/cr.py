"""CR attack: steps in a ball that is larger than the threat, judged inside it."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.losses import ce, margin, margins, ranking
from gauntlet.attacks.projected_ascent import BestCandidates, PerturbationSet, Step, ascend
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

SCALES = (0.5, 0.25, 0.125, 0.0625)
"""Scale of each cycle: how much larger than eps the relaxed ball is, and how long a step, as shares of eps."""

LAST_SCALE = 0.05
"""Scale of all later cycles."""


@dataclass(frozen=True)
class CR(Knobs, key="attack"):
    """CR attack (Efficient Robustness Evaluation via Constraint Relaxation, AAAI 2025), for linf.

    A few steps of PGD on cross-entropy (arXiv 1706.06083) choose the targets: the best other classes where they end.
    To each target go cycles of three parts with sign steps on z_t - z_y: in a ball of eps (1 + scale), where a point is
    judged by its projection to eps; in eps itself; and in eps again from a point that was pulled into eps (1 - scale)
    and shaken by scale eps. The scale, also the length of the steps, is halved from cycle to cycle. After the second
    part a sample leaves the run whose margin is still wide, and only pairs of sample and target that once came close
    are tried again.

    The released code states both thresholds in units of logits. Here they are shares of the clean margin, so that
    neither the scale of the logits nor a shift of them changes the answer. A candidate counts as found where any class
    beats the label.

    Args:
        targets: classes to move to, >= 1.
        cycles: of each run, >= 1.
        steps: of each of the three parts of a cycle, and on cross-entropy, >= 1.
        restarts: more rounds over the targets, >= 0.
        prune: a sample leaves a run whose margin exceeds prune times scale times its clean margin, > 0.
        near: share of the clean margin below which a pair must have come to be tried again, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    targetable: ClassVar[bool] = False  # its targets are its own

    targets: int = knob(3, least=1)
    cycles: int = knob(5, least=1)
    steps: int = knob(10, least=1)
    restarts: int = knob(4, least=0)
    prune: float = knob(0.5, above=0)
    near: float = knob(0.03, least=0)

    def scales(self) -> list[float]:
        """Return the scale of each cycle."""
        return [*SCALES, *[LAST_SCALE] * self.cycles][: self.cycles]

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        best = BestCandidates.start(x)
        if not len(x):
            return best.z
        clean = margins(head.scores(x, rng.stream("clean")), y)
        plan = [Step(ce, 0.5)] * (self.steps - 1) + [Step(ce, 0.25)]
        everyone, draw = torch.arange(len(x), device=x.device), rng.stream("screen")
        index, z = ascend(
            head, x, y, threat.random(x, draw.stream("start")), plan, best, everyone, threat=threat, rng=draw
        )
        if not len(index):
            return best.z
        ranked = ranking(head.scores(z, rng.select(index).stream("targets")), y[index])[:, : self.targets]
        order = y.new_zeros(len(x), ranked.shape[1]).index_copy(0, index, ranked)
        least = clean.new_full(order.shape, torch.inf)  # margin of each pair so far
        for number in range(1 + self.restarts):
            for rank in range(order.shape[1]):
                due = ~best.broken if number == 0 else ~best.broken & (least[:, rank] < self.near * clean)
                index = due.nonzero().squeeze(1)
                if not len(index):
                    continue
                below = rng.select(index).stream(number).stream(rank)
                run = RelaxedRun(
                    head, best, index, x[index], y[index], order[index, rank], clean[index], least[:, rank],
                    threat.select(index), below, threat.select(index).random(x[index], below.stream("start")),
                )  # fmt: skip
                self._run(run)
        return best.z

    def _run(self, run: "RelaxedRun") -> None:
        for number, scale in enumerate(self.scales()):
            run.walk(self.steps, scale, 1 + scale, (number, "relaxed"))
            run.walk(self.steps, scale, 1.0, (number, "inside"))
            run.judge((number, "middle"))
            run.keep(run.margin <= self.prune * scale * run.clean)
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
            logits, gradient = self.head.gradient(self.z, partial(margin, y=self.y, target=self.target), draw)
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
        """Pull the points into the ball of eps (1 - scale), then move each pixel by at most scale eps."""
        factors = self.z.new_full((len(self.index),), 1 - scale)
        near = PerturbationSet.around(self.threat.scaled(factors), self.x).project(self.z.clone())
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
