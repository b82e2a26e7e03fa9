"""Adaptive Auto Attack."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import along, margin, margins, ranking, runner_up
from gauntlet.attacks.projected_ascent import Best, Step, ascend
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


class Stage(NamedTuple):
    """One stage.

    Args:
        share: of the samples that stand, those of least margin, which are attacked.
        steps: of ascent.
        turns: steps before them that lead to the start.
        restarts: how often.
    """

    share: float
    steps: int
    turns: int
    restarts: int = 1


OPENING = (Stage(1.0, 8, 0), Stage(1.0, 15, 7), Stage(1.0, 15, 7))


NARROW = (
    *OPENING,
    Stage(0.7, 32, 7), Stage(0.6, 37, 7), Stage(0.5, 37, 7), Stage(0.4, 42, 7), Stage(0.3, 47, 7), Stage(0.2, 52, 7),
    Stage(0.1, 57, 7), Stage(0.1, 57, 7, 4), Stage(0.065, 62, 7, 4), Stage(0.03, 67, 7, 50),
)  # fmt: skip
"""More and more steps for fewer and fewer samples."""


WIDE = (
    *OPENING,
    Stage(1.0, 15, 10, 10), Stage(1.0, 20, 15), Stage(1.0, 25, 15), Stage(1.0, 20, 10), Stage(1.0, 25, 10),
    Stage(1.0, 28, 10), Stage(1.0, 30, 10), Stage(0.8, 35, 10, 5), Stage(0.5, 45, 10, 5), Stage(0.5, 55, 10, 20),
)  # fmt: skip
"""Where the turns alone fool many: longer turns, and almost nobody is left out."""


def lengths(steps: int) -> list[float]:
    """Step sizes of an ascent as multiples of eps: half a cosine from 1 to 0.001, or to 0.1 for at most ten steps."""
    low = 0.1 if steps <= 10 else 0.001
    return [low + (1 - low) * (1 + math.cos(math.pi * i / (steps + 1))) / 2 for i in range(steps)]


def due(margin: Tensor, broken: Tensor, share: float, least: int) -> Tensor:
    """Positions, rising, of the share of the standing samples that is nearest to being fooled, at least `least`.

    Args:
        margin: float [B], the least so far.
        broken: bool [B].
    """
    standing = (~broken).nonzero().squeeze(1)
    count = min(max(least, int(len(standing) * share)), len(standing))
    nearest = margin[standing].argsort(stable=True)[:count]
    return standing[nearest].sort().values


class Leaning(NamedTuple):
    """Weights of two classes, as multiples of a tenth of the number of classes.

    Args:
        low, high: between which the weight of the true class is drawn.
        rival: weight of the class that it is this turn's, by rank on the clean image.
    """

    low: float
    high: float
    rival: float


def leaning(true: float, fallen: float, wide: bool, final: bool) -> Leaning:
    """Where starts lean after stage 1.

    Args:
        true, fallen: sums of the weights of the true class, and of the class they fell into, over the samples that
            were fooled from unbiased directions.
        wide: the turns alone fool many.
        final: one of the last stages.
    """
    if wide:
        return Leaning(0.0, 0.0, 0.8) if final else Leaning(-0.1, 0.5, 0.8)
    if final:
        return Leaning(-0.8, 0.1, 0.8)
    low, high = (-0.1, 0.5) if true > 0 else (-0.5, 0.1)
    return Leaning(low, high, 0.8 if fallen >= 0 else -0.8)


def directions(rng: Rng, classes: int, y: Tensor, rival: Tensor, lean: Leaning | None) -> Tensor:
    """Weights [b, classes] of the logits: uniform in [-1, 1), but for the true class and its rival where they lean."""
    weights = rng.uniform((classes,), -1, 1)
    if lean is None:
        return weights
    scale = classes / 10
    mine = scale * rng.stream("true").uniform((1,), lean.low, lean.high)
    return weights.scatter(1, y[:, None], mine).scatter(1, rival[:, None], scale * lean.rival)


def ranks(classes: int, final: bool) -> int:
    """How many of the best other classes take turns as the rival."""
    most = 14 if classes <= 100 else 20
    if classes <= 10:
        most = 4 if final else 9
    return min(most, classes - 1)


@dataclass(frozen=True)
class A3(Knobs, key="attack"):
    """Adaptive Auto Attack (Liu et al. 2022, arXiv 2203.05154) for linf and l2: restarts that learn where to go.

    A restart goes from a random point seven steps of eps along a random weighting of the logits, then ascends the
    margin. From stage 2 on the weights of the true class and of one rival follow the signs that fooled samples in
    stage 1, and later stages attack only the samples of least margin, with more steps. Where the turns alone have
    fooled 5 % of the samples, the stages are those for models that hide their gradients; where less than 10 % of the
    samples stand, all of them are attacked, `extra` times more.

    It compares samples, so it is called with a whole chunk, and its finds depend on runtime.chunk. All classes and
    images follow one plan; what the released code does for single data sets is left out.

    Args:
        rounds: how many of the 13 stages, 1 to 13.
        restarts: of the last of the 13, >= 0; 50 in the paper's code.
        extra: more restarts of each stage where few samples stand, >= 0.
        least: share of all samples that a stage attacks at least, in [0, 1]. The paper's code says 100, for sets of
            10,000.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    cross_sample: ClassVar[bool] = True
    JUMPY: ClassVar[float] = 0.05
    SCARCE: ClassVar[float] = 0.1

    rounds: int = knob(13, least=1, most=len(NARROW))
    restarts: int = knob(50, least=0)
    extra: int = knob(10, least=0)
    least: float = knob(0.01, least=0, most=1, hint="it is a share of the samples")

    def stage(self, number: int, wide: bool, scarce: bool) -> Stage:
        """What stage `number` (from 0) does.

        Args:
            wide: the turns alone have fooled many.
            scarce: few samples stand.
        """
        stage = (WIDE if wide else NARROW)[number]
        if number == len(NARROW) - 1:  # of the last, `restarts` is given for the narrow plan
            stage = stage._replace(restarts=round(stage.restarts * self.restarts / NARROW[-1].restarts))
        return stage._replace(share=1.0, restarts=stage.restarts + self.extra) if scarce else stage

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        search = _Search(head, x, y, threat, rng)
        if not len(x):
            return search.best.z
        search.begin()
        least = max(1, round(self.least * len(x)))
        for number in range(self.rounds):
            standing = int((~search.best.broken).sum())
            if number == 1:
                search.once = standing
            wide = number >= len(OPENING) and search.jumped >= self.JUMPY * search.once
            stage = self.stage(number, wide, standing < self.SCARCE * len(x))
            for _ in range(stage.restarts):
                index = due(search.best.margin, search.best.broken, stage.share, least)
                if not len(index):
                    return search.best.z
                search.restart(index, number, stage, wide)
        return search.best.z


class _Search:
    """The state of one call: what was found, and what was learnt from all samples together."""

    def __init__(self, head: CountedHead, x: Tensor, y: Tensor, threat: Threat, rng: Rng) -> None:
        self.head, self.x, self.y, self.threat, self.rng = head, x, y, threat, rng
        self.best = Best.start(x)
        self.order = y[:, None]  # the other classes of each sample, best first
        self.turn = 0  # restarts begun
        self.once = 0  # samples that stood before stage 1
        self.jumped = 0  # samples that the turns alone have fooled
        self.true = self.fallen = 0.0  # sums of weights over the samples that stage 1 fooled

    def begin(self) -> None:
        """Rank the classes at a random corner of the linf ball, or at the image; who is fooled there leaves."""
        orders = []
        for piece in self.head.batches(torch.arange(len(self.x), device=self.x.device)):
            x, y, around, draw = self.x[piece], self.y[piece], self.threat.select(piece), self.rng.select(piece)
            z = x
            if self.threat.norm == "linf":
                sign = 2 * draw.stream("corner").integers(tuple(x.shape[1:]), 2).to(x.dtype) - 1
                z = around.project(x + around.budget(x) * sign, x)
            draw = draw.stream("begin")
            logits = self.head.scores(z, draw)
            self.best.note(piece, z, margins(logits, y), self.head.broken(z, logits, y, draw, plain=True))
            orders.append(ranking(logits, y))
        self.order = torch.cat(orders)

    def restart(self, index: Tensor, number: int, stage: Stage, wide: bool) -> None:
        """Attack the samples at `index` once, in the way of a stage."""
        final = number >= (11 if wide else 10)
        rank = (self.turn - 1) % ranks(self.order.shape[1] + 1, final)
        lean = leaning(self.true, self.fallen, wide, final) if number >= 2 else None
        draws = self.rng.stream(number).stream(self.turn)
        plan = [Step(margin, length) for length in lengths(stage.steps)]
        weights = directions(
            draws.select(index).stream("weights"), self.order.shape[1] + 1, self.y[index], self.order[index, rank], lean
        )
        for piece, some in zip(self.head.batches(index), self.head.batches(torch.arange(len(index))), strict=True):
            self._ascend(piece, weights[some], stage.turns, plan, draws)
        self.turn += 1
        if number == 1:
            self._learn(index, weights, draws)

    def _ascend(self, piece: Tensor, weights: Tensor, turns: int, plan: list[Step], draws: Rng) -> None:
        below, around = draws.select(piece), self.threat.select(piece)
        z, at = around.random(self.x[piece], below.stream("start")), piece
        if turns:
            at, z = ascend(
                self.head, self.x[piece], self.y[piece], z, [Step(along, 1.0)] * turns, self.best, piece,
                threat=around, rng=below.stream("turns"), target=weights,
            )  # fmt: skip
            self.jumped += len(piece) - len(at)
        ascend(
            self.head, self.x[at], self.y[at], z, plan, self.best, at,
            threat=self.threat.select(at), rng=draws.select(at),
        )  # fmt: skip

    def _learn(self, index: Tensor, weights: Tensor, draws: Rng) -> None:
        """Add up the weights of the true class and of that fallen into, over the samples that were just fooled."""
        fooled = self.best.broken[index]
        gone, weights = index[fooled], weights[fooled].double()
        fallen = [
            runner_up(self.head.scores(self.best.z[piece], draws.select(piece).stream("fallen")), self.y[piece])
            for piece in self.head.batches(gone)
        ]
        if fallen:
            self.true += weights.gather(1, self.y[gone, None]).sum().item()
            self.fallen += weights.gather(1, torch.cat(fallen)[:, None]).sum().item()
