"""The attack for serious numbers: many short and different attempts, spent where they can succeed."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_ascent, sparse_start
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.losses import Cotangent, along, ce, margin, margins, pm, ranking, temperature_scaled
from gauntlet.attacks.minimum_norm.sigma_zero import SigmaZero
from gauntlet.attacks.projected_ascent import BestCandidates, Step, ascend
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.access import level_of, narrowed
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

TRUE, PROBABILITY = temperature_scaled(ce), temperature_scaled(pm)

ODI_STEP = Step(along, 1.0)


@dataclass(frozen=True)
class Gauntlet(Knobs, key="attack"):
    """One screening run for all, then further attempts where the margin says that they can succeed.

    The screen ascends cross-entropy and then the probability margin (PMA, arXiv 2411.15210), a few steps of each. What
    it leaves of a sample's margin, divided by what it took, is the sample's gap: the further perturbation, in units of
    the one that it had, after which a linear model would be fooled. Attempts of different kinds follow, by turns:
    `probability`, the probability margin alone; `turn`, the losses of the screen after output-diversified
    initialization (ODI) towards a random rival (arXiv 2203.05154); `margin`, the margin of the logits; `rival`, that to
    the second best class at the best point so far. From the second on only samples of small gap are tried, under a
    bound that falls, and when all kinds had their turn the next attempts are longer. Steps follow a cosine from 2 eps
    to 0, success is checked on the logits of the gradient pass, and a sample leaves at once. Under l1 the steps are
    those of Auto-PGD: as sparse as the best point so far, in balls that shrink to eps (arXiv 2103.01208). There the
    screen has twice as many steps, the bound on the gap is twice as large, and `truth`, cross-entropy from a sparse
    point on the boundary of the ball, stands in place of `margin` and of one `turn`.

    Under l0 three runs of sigma-zero (`sparse`; arXiv 2402.01879) follow on all survivors, each with 50 times the steps
    of the screen: with shorter steps, with a smoother count of pixels, and as it is by default. The queries below know
    no l0.

    Gradients may lie. For each survivor, local linearity is checked: the gradient at its best point is compared with
    the change of the margin on the way back to the image, and a few random queries are made (`probe`; Square, arXiv
    1912.00049). Where local linearity fails, or the queries took much beside what gradients took and what is left, more
    of them follow (`trial`); where it fails and these take a large share of what gradients took, the full Square attack
    (`square`).

    Everything is decided from the sample itself, so neither batch-mates nor chunks matter. Records name the phase that
    broke a sample: screen, the kind of attempt, sparse, probe, trial or square.

    Args:
        steps: of the screen, >= 1.
        rounds: attempts that follow at most, >= 0.
        round_steps: of each until all kinds had their turn, >= 1; of the next as many twice that, and so on.
        gap: the largest gap of a sample that is tried again, >= 0; after n attempts, gap / (1 + n / 2). The first
            attempt, whose loss is another than those of the screen, is made on all.
        turns: ODI steps of eps before a `turn`, >= 0.
        mismatch: relative error of the linear model beyond which gradients are not believed, > 0.
        probe: queries to each survivor, >= 0.
        trial: queries to samples whose gradients are not believed, and where the probe did well, >= 0.
        queries: to the former where queries are effective, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    revisions: ClassVar[dict[str, int]] = {"l1": 2}  # version 1 moved 5 % of the entries
    KINDS: ClassVar[tuple[str, ...]] = ("probability", "turn", "margin", "turn", "rival")
    L1_KINDS: ClassVar[tuple[str, ...]] = ("truth", "probability", "truth", "turn", "rival")
    L1_EFFORT: ClassVar[int] = 2
    """Sparse steps need so many times the screen, and restarts break samples of so many times the gap."""
    SPARSE: ClassVar[tuple[dict[str, float], ...]] = ({"step_size": 0.3}, {"sigma": 0.01}, {})
    """How the runs of sigma-zero under l0 differ from its defaults."""
    SPARSE_EFFORT: ClassVar[int] = 50
    """Steps of each of them, in units of those of the screen."""
    TRIAL_GAIN_SHARE: ClassVar[float] = 0.2
    """Share of what gradients took from a margin that the queries of a probe must take for a trial."""
    TRIAL_MARGIN_SHARE: ClassVar[float] = 0.5
    """Share of what is left of the margin that they must take."""
    SQUARE_GAIN_SHARE: ClassVar[float] = 0.5
    """Share of what gradients took from a margin that the queries of a trial must take to go on."""
    SQUARE_MARGIN_SHARE: ClassVar[float] = 0.6
    """Share of the clean margin that they must take."""

    steps: int = knob(20, least=1)
    rounds: int = knob(12, least=0)
    round_steps: int = knob(30, least=1)
    gap: float = knob(0.5, least=0)
    turns: int = knob(5, least=0)
    mismatch: float = knob(0.25, above=0)
    probe: int = knob(20, least=0)
    trial: int = knob(500, least=0)
    queries: int = knob(5000, least=0)

    def bound(self, number: int, norm: str = "linf") -> float:
        """Return the largest gap of the samples that attempt `number` (from 0) tries."""
        return (self.L1_EFFORT if norm == "l1" else 1) * self.gap / (1 + number / 2) if number else math.inf

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        state = GauntletState(head, x, y, threat, rng)
        if len(x):
            steps = self.steps * (self.L1_EFFORT if threat.norm == "l1" else 1)
            state.run("screen", state.survivors(), _plan(TRUE, PROBABILITY, steps))
            self._search_near(state)
            for number in range(self.rounds):
                self._attempt(state, number)
            if threat.norm == "l0":
                for number, knobs in enumerate(self.SPARSE):
                    state.sparse(SigmaZero(steps=self.SPARSE_EFFORT * self.steps, **knobs), number)
            else:
                self._black_box_fallback(state)
        return state.best.z

    def _search_near(self, state: "GauntletState") -> None:
        """Do what a version of this attack does between the screen and the attempts; here nothing."""

    def _attempt(self, state: "GauntletState", number: int) -> None:
        """Make one more attempt on the samples that are close."""
        index = state.survivors(state.gaps() <= self.bound(number, state.threat.norm))
        if not len(index):
            return
        cycle, place = divmod(number, len(self.KINDS))
        kinds = self.L1_KINDS if state.threat.norm == "l1" else self.KINDS
        kind, steps = kinds[place], self.round_steps * (1 + cycle)
        if kind == "probability":
            state.run(kind, index, _plan(PROBABILITY, PROBABILITY, steps), number)
        elif kind == "truth":
            start = sparse_start(state.x[index], state.rng.select(index).stream(number))
            state.run(kind, index, _plan(TRUE, TRUE, steps), number, start=start)
        elif kind == "margin":
            state.run(kind, index, _plan(margin, margin, steps), number)
        elif kind == "rival":
            ranked_classes = state.ranked_classes(index, number)
            target = ranked_classes[:, min(1, ranked_classes.shape[1] - 1)]
            state.run(kind, index, _plan(margin, margin, steps), number, target=target)
        else:
            odi_plan, odi_direction = [ODI_STEP] * self.turns, state.odi_direction(index, number)
            index, start = state.run(kind, index, odi_plan, (number, "aside"), target=odi_direction)
            state.run(kind, index, _plan(TRUE, PROBABILITY, steps), number, start=start)

    def _black_box_fallback(self, state: "GauntletState") -> None:
        """Query the survivors, more of them where gradients cannot be believed."""
        index = state.survivors()
        doubted = torch.zeros_like(state.best.broken)
        doubted[index] = state.linearity_error(index) > self.mismatch
        taken = state.clean - state.best.margin  # by gradients
        by_probe = state.query("probe", index, self.probe)
        promising = (by_probe >= self.TRIAL_GAIN_SHARE * taken) & (
            by_probe >= self.TRIAL_MARGIN_SHARE * state.best.margin
        )
        by_trial = state.query("trial", state.survivors(doubted | promising), self.trial)
        effective = (by_trial >= self.SQUARE_GAIN_SHARE * taken) & (by_trial >= self.SQUARE_MARGIN_SHARE * state.clean)
        state.query("square", state.survivors(doubted & effective), self.queries)


def _plan(first: Cotangent, second: Cotangent, steps: int) -> list[Step]:
    """Return two losses for half of the steps each, along one cosine from 2 eps to 0."""
    half = steps // 2
    return [Step(first if i < half else second, 1 + math.cos(math.pi * i / steps)) for i in range(steps)]


class GauntletState:
    """The state of one call."""

    LINEARITY_STEP = 0.05  # share of the way back to the image over which local linearity is tested

    def __init__(self, head: CountedHead, x: Tensor, y: Tensor, threat: Threat, rng: Rng) -> None:
        self.head, self.x, self.y, self.threat, self.rng = head, x, y, threat, rng
        self.best = BestCandidates.start(x)
        self.clean = margins(head.scores(x, rng.stream("clean")), y) if len(x) else x.new_zeros(0)

    def survivors(self, where: Tensor | None = None) -> Tensor:
        """Return the positions of the survivors, int64 [b]; where: of these, bool [B]."""
        return (~self.best.broken if where is None else ~self.best.broken & where).nonzero().squeeze(1)

    def gaps(self) -> Tensor:
        """Return the margin that is left of each sample over the margin that was taken from it, [B]."""
        taken = self.clean - self.best.margin
        return torch.where(taken > 0, self.best.margin / taken, torch.inf)

    def ranked_classes(self, index: Tensor, name: object) -> Tensor:
        """Return the other classes at the best point so far, the best first, int64 [b, K - 1]."""
        draw = self.rng.select(index).stream(name).stream("order")
        return ranking(self.head.scores(self.best.z[index], draw), self.y[index])

    def odi_direction(self, index: Tensor, name: object) -> Tensor:
        """Return the weights of the logits [b, K]: 1 for one of the four best rivals, -0.5 to 0.1 for the truth, else
        -1 to 1.
        """
        ranked_classes, draw = self.ranked_classes(index, name), self.rng.select(index).stream(name)
        classes = ranked_classes.shape[1] + 1
        chosen = draw.stream("rival").integers((1,), min(4, classes - 1))
        weights = draw.stream("weights").uniform((classes,), -1, 1, dtype=self.x.dtype)
        weights = weights.scatter(1, ranked_classes.gather(1, chosen), 1.0)
        return weights.scatter(1, self.y[index, None], draw.stream("true").uniform((1,), -0.5, 0.1, dtype=self.x.dtype))

    def run(
        self,
        phase: str,
        index: Tensor,
        plan: list[Step],
        name: object = "",
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ascend by a plan; return the survivors and their points."""
        around, draw = self.threat.select(index), self.rng.select(index).stream(phase).stream(name)
        self.head.counts.enter(phase, draw.ids)
        start = around.random(self.x[index], draw.stream("start")) if start is None else start
        walk = sparse_ascent if self.threat.norm == "l1" and plan[:1] != [ODI_STEP] else ascend
        return walk(
            self.head, self.x[index], self.y[index], start, plan, self.best, index,
            threat=around, rng=draw, target=target,
        )  # fmt: skip

    def sparse(self, attack: SigmaZero, number: int) -> None:
        """Run sigma-zero on the survivors."""
        index = self.survivors()
        if not len(index):
            return
        x, y, draw = self.x[index], self.y[index], self.rng.select(index).stream("sparse").stream(number)
        self.head.counts.enter("sparse", draw.ids)
        z = attack(self.head, x, y, threat=self.threat.select(index), rng=draw)
        moved = (z != x).flatten(1).any(1).nonzero().squeeze(1)  # the others are the images: nothing was found
        if len(moved):
            z, y, end = z[moved], y[moved], draw.select(moved).stream("end")
            logits = self.head.scores(z, end)
            self.best.note(index[moved], z, margins(logits, y), self.head.broken(z, logits, y, end, plain=True))

    def query(self, phase: str, index: Tensor, queries: int) -> Tensor:
        """Square attack; return what it took from the margins of all samples, [B], zero of those not asked."""
        taken = torch.zeros_like(self.clean)
        if not queries or not len(index):
            return taken
        draw = self.rng.select(index).stream(phase)
        self.head.counts.enter(phase, draw.ids)
        x, y, attack = self.x[index], self.y[index], Square(queries=queries)
        z = attack(narrowed(self.head, level_of(attack)), x, y, threat=self.threat.select(index), rng=draw)
        end = draw.stream("end")
        logits = self.head.scores(z, end)
        left = margins(logits, y)
        self.best.note(index, z, left, self.head.broken(z, logits, y, end, plain=True))
        taken[index] = self.clean[index] - left
        return taken

    def linearity_error(self, index: Tensor) -> Tensor:
        """Return how far the linear model at the best point is from the change of the margin on the way back to the
        image, [b].

        0: the same, or both are nothing; 1: one of both is nothing; 2: of opposite sign.
        """
        x, y, z, draw = self.x[index], self.y[index], self.best.z[index], self.rng.select(index).stream("slope")
        back = self.LINEARITY_STEP * (x - z)
        logits, gradient = self.head.gradient(z, lambda observed: margin(observed, y), draw)
        rival = ranking(logits, y)[:, :1]
        before = logits.gather(1, rival) - logits.gather(1, y[:, None])
        logits = self.head.scores(z + back, draw.stream("back"))
        observed = (logits.gather(1, rival) - logits.gather(1, y[:, None]) - before).squeeze(1).double()
        predicted = 2 * (gradient * back).flatten(1).double().sum(1)  # the cotangent is half of e_m - e_y
        most = observed.abs().maximum(predicted.abs())
        return (observed - predicted).abs() / most.clamp_min(1e-30)
