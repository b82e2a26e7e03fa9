"""Adaptive Auto Attack."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gauntlet.attacks.losses import along, margin, margins, ranking, runner_up
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


class A3Stage(NamedTuple):
    """One stage.

    Args:
        share: of the survivors, those of least margin, which are attacked.
        steps: of ascent.
        odi_steps: steps of output-diversified initialization (ODI) before them that lead to the start.
        restarts: how often.
    """

    share: float
    steps: int
    odi_steps: int
    restarts: int = 1


OPENING = (A3Stage(1.0, 8, 0), A3Stage(1.0, 15, 7), A3Stage(1.0, 15, 7))


NARROW = (
    *OPENING,
    A3Stage(0.7, 32, 7), A3Stage(0.6, 37, 7), A3Stage(0.5, 37, 7), A3Stage(0.4, 42, 7), A3Stage(0.3, 47, 7),
    A3Stage(0.2, 52, 7), A3Stage(0.1, 57, 7), A3Stage(0.1, 57, 7, 4), A3Stage(0.065, 62, 7, 4),
    A3Stage(0.03, 67, 7, 50),
)  # fmt: skip
"""More and more steps for fewer and fewer samples."""


WIDE = (
    *OPENING,
    A3Stage(1.0, 15, 10, 10), A3Stage(1.0, 20, 15), A3Stage(1.0, 25, 15), A3Stage(1.0, 20, 10), A3Stage(1.0, 25, 10),
    A3Stage(1.0, 28, 10), A3Stage(1.0, 30, 10), A3Stage(0.8, 35, 10, 5), A3Stage(0.5, 45, 10, 5),
    A3Stage(0.5, 55, 10, 20),
)  # fmt: skip
"""Where the ODI steps alone fool many: more ODI steps, and almost nobody is left out."""


def lengths(steps: int) -> list[float]:
    """Step sizes of an ascent as multiples of eps: half a cosine from 1 to 0.001, or to 0.1 for at most ten steps."""
    low = 0.1 if steps <= 10 else 0.001
    return [low + (1 - low) * (1 + math.cos(math.pi * i / (steps + 1))) / 2 for i in range(steps)]


def select_nearest(margin: Tensor, broken: Tensor, share: float, least: int) -> Tensor:
    """Return the positions, rising, of the share of the survivors that is nearest to being fooled, at least `least`.

    Args:
        margin: float [B], the least so far.
        broken: bool [B].
    """
    survivors = (~broken).nonzero().squeeze(1)
    count = min(max(least, int(len(survivors) * share)), len(survivors))
    nearest = margin[survivors].argsort(stable=True)[:count]
    return survivors[nearest].sort().values


class OdiWeights(NamedTuple):
    """Weights of two classes, as multiples of a tenth of the number of classes.

    Args:
        low, high: between which the weight of the true class is drawn.
        rival: weight of the class whose turn it is, by rank on the clean image.
    """

    low: float
    high: float
    rival: float


def odi_weights(true: float, fallen: float, wide: bool, final: bool) -> OdiWeights:
    """Choose the weights of the start directions after stage 1.

    Args:
        true, fallen: sums of the weights of the true class, and of the class they fell into, over the samples that
            were fooled from unbiased directions.
        wide: the ODI steps alone fool many.
        final: one of the last stages.
    """
    if wide:
        return OdiWeights(0.0, 0.0, 0.8) if final else OdiWeights(-0.1, 0.5, 0.8)
    if final:
        return OdiWeights(-0.8, 0.1, 0.8)
    low, high = (-0.1, 0.5) if true > 0 else (-0.5, 0.1)
    return OdiWeights(low, high, 0.8 if fallen >= 0 else -0.8)


def logit_weights(rng: Rng, classes: int, y: Tensor, rival: Tensor, odi: OdiWeights | None) -> Tensor:
    """Return the weights [b, classes] of the logits: uniform in [-1, 1), but for the true class and its rival under
    ODI."""
    weights = rng.uniform((classes,), -1, 1)
    if odi is None:
        return weights
    scale = classes / 10
    mine = scale * rng.stream("true").uniform((1,), odi.low, odi.high)
    return weights.scatter(1, y[:, None], mine).scatter(1, rival[:, None], scale * odi.rival)


def ranks(classes: int, final: bool) -> int:
    """Return how many of the best other classes take turns as the rival."""
    most = 14 if classes <= 100 else 20
    if classes <= 10:
        most = 4 if final else 9
    return min(most, classes - 1)


@dataclass(frozen=True)
class A3(Knobs, key="attack"):
    """Adaptive Auto Attack (Liu et al. 2022, arXiv 2203.05154) for linf and l2: restarts that learn where to go.

    A restart goes from a random point seven steps of eps along a random weighting of the logits, then ascends the
    margin. From stage 2 on the weights of the true class and of one rival follow the signs that fooled samples in
    stage 1, and later stages attack only the samples of least margin, with more steps. Where the ODI steps alone have
    fooled 5 % of the samples, the stages are those for models that hide their gradients; where less than 10 % of the
    samples survive, all of them are attacked, `extra` times more.

    It compares samples, so it is called with a whole chunk, and its results depend on runtime.chunk. All classes and
    images follow one plan; what the released code does for single data sets is left out.

    Args:
        rounds: how many of the 13 stages, 1 to 13.
        restarts: of the last of the 13, >= 0; 50 in the paper's code.
        extra: more restarts of each stage where few samples survive, >= 0.
        least: share of all samples that a stage attacks at least, in [0, 1]. The paper's code says 100, for sets of
            10,000.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    cross_sample: ClassVar[bool] = True
    ODI_SUCCESS_SHARE: ClassVar[float] = 0.05
    FEW_SURVIVORS_SHARE: ClassVar[float] = 0.1

    rounds: int = knob(13, least=1, most=len(NARROW))
    restarts: int = knob(50, least=0)
    extra: int = knob(10, least=0)
    least: float = knob(0.01, least=0, most=1, hint="it is a share of the samples")

    def stage(self, number: int, wide: bool, scarce: bool) -> A3Stage:
        """Return what stage `number` (from 0) does.

        Args:
            wide: the ODI steps alone have fooled many.
            scarce: few samples survive.
        """
        stage = (WIDE if wide else NARROW)[number]
        if number == len(NARROW) - 1:  # of the last, `restarts` is given for the narrow plan
            stage = stage._replace(restarts=round(stage.restarts * self.restarts / NARROW[-1].restarts))
        return stage._replace(share=1.0, restarts=stage.restarts + self.extra) if scarce else stage

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        state = A3State(head, x, y, threat, rng)
        if not len(x):
            return state.best.z
        state.begin()
        least = max(1, round(self.least * len(x)))
        for number in range(self.rounds):
            survivors = int((~state.best.broken).sum())
            if number == 1:
                state.survivors_before = survivors
            wide = number >= len(OPENING) and state.fooled_by_odi >= self.ODI_SUCCESS_SHARE * state.survivors_before
            stage = self.stage(number, wide, survivors < self.FEW_SURVIVORS_SHARE * len(x))
            for _ in range(stage.restarts):
                index = select_nearest(state.best.margin, state.best.broken, stage.share, least)
                if not len(index):
                    return state.best.z
                state.restart(index, number, stage, wide)
        return state.best.z


class A3State:
    """The state of one call: what was found, and what was learnt from all samples together."""

    def __init__(self, head: CountedHead, x: Tensor, y: Tensor, threat: Threat, rng: Rng) -> None:
        self.head, self.x, self.y, self.threat, self.rng = head, x, y, threat, rng
        self.best = BestCandidates.start(x)
        self.order = y[:, None]  # the other classes of each sample, best first
        self.restarts_begun = 0
        self.survivors_before = 0  # samples that survived before stage 1
        self.fooled_by_odi = 0  # samples that the ODI steps alone have fooled
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

    def restart(self, index: Tensor, number: int, stage: A3Stage, wide: bool) -> None:
        """Attack the samples at `index` once, in the way of a stage."""
        final = number >= (11 if wide else 10)
        rank = (self.restarts_begun - 1) % ranks(self.order.shape[1] + 1, final)
        odi = odi_weights(self.true, self.fallen, wide, final) if number >= 2 else None
        draws = self.rng.stream(number).stream(self.restarts_begun)
        plan = [Step(margin, length) for length in lengths(stage.steps)]
        weights = logit_weights(
            draws.select(index).stream("weights"), self.order.shape[1] + 1, self.y[index], self.order[index, rank], odi
        )
        for piece, some in zip(self.head.batches(index), self.head.batches(torch.arange(len(index))), strict=True):
            self._ascend(piece, weights[some], stage.odi_steps, plan, draws)
        self.restarts_begun += 1
        if number == 1:
            self._learn(index, weights, draws)

    def _ascend(self, piece: Tensor, weights: Tensor, odi_steps: int, plan: list[Step], draws: Rng) -> None:
        below, around = draws.select(piece), self.threat.select(piece)
        z, at = around.random(self.x[piece], below.stream("start")), piece
        if odi_steps:
            at, z = ascend(
                self.head, self.x[piece], self.y[piece], z, [Step(along, 1.0)] * odi_steps, self.best, piece,
                threat=around, rng=below.stream("turns"), target=weights,
            )  # fmt: skip
            self.fooled_by_odi += len(piece) - len(at)
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
