"""The attack for serious numbers: many short and different attempts, spent where they can succeed."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.apgd_l1 import sparse_start
from gauntlet.attacks.gauntlet_state import ODI_STEP, GauntletState
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.losses import Cotangent, ce, margin, pm, temperature_scaled
from gauntlet.attacks.minimum_norm.sigma_zero import SigmaZero
from gauntlet.attacks.projected_ascent import Step
from gauntlet.attacks.query_fallback import QueryFallback
from gauntlet.attacks.relaxed_ball import RelaxedSearch
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

TRUE, PROBABILITY = temperature_scaled(ce), temperature_scaled(pm)


@dataclass(frozen=True)
class Gauntlet(Knobs, key="attack"):
    """One screening run for all, then further attempts where the margin says that they can succeed.

    The screen ascends cross-entropy and then the probability margin (PMA, arXiv 2411.15210), a few steps of each; under
    a targeted threat cross-entropy alone. What it leaves of a sample's margin, divided by what it took, is the sample's
    gap: the further perturbation, in units of the one that it had, after which a linear model would be fooled. Then
    local linearity is checked: the gradient at the best point is compared with the change of the margin on the way back
    to the image.

    Where it holds, under linf and l2, and the gap is at most `FAR` times `gap`, the other classes are ordered by the
    distance of their boundary, linearized at the best point so far (arXiv 2407.02240). Runs of the CR attack (AAAI
    2025; `gauntlet.attacks.relaxed_ball`) go to the nearest (`relaxed`), and again where one came close (`restart`).
    Nearly every run ends early: after the relaxed steps of its first cycle where these leave more than a quarter of the
    clean margin, and later where the margin exceeds an ever smaller share of it.

    Attempts of different kinds follow, by turns: `probability`, the probability margin alone; `turn`, the losses of the
    screen after output-diversified initialization (ODI) towards a random rival (arXiv 2203.05154); `margin`, the margin
    of the logits; `rival`, that to the second best class at the best point so far. Only samples of small gap are tried,
    under a bound that falls, and when all kinds had their turn the next attempts are longer. The bound is narrow where
    runs through a relaxed ball came before; where they did not, the first attempt is made on all. Steps follow a cosine
    from 2 eps to 0, success is checked on the logits of the gradient pass, and a sample leaves at once. Under l1 the
    steps are those of Auto-PGD: as sparse as the best point so far, in balls that shrink to eps (arXiv 2103.01208).
    There the screen has twice as many steps, the bound on the gap is twice as large, and `truth`, cross-entropy from a
    sparse point on the boundary of the ball, stands in place of `margin` and of one `turn`.

    Under l0 three runs of sigma-zero (`sparse`; arXiv 2402.01879) follow on all survivors, each with 50 times the steps
    of the screen: with shorter steps, with a smoother count of pixels, and as it is by default. The queries below know
    no l0.

    Gradients may lie. Each survivor gets a few random queries from its best point (`probe`; Square, arXiv 1912.00049).
    Where local linearity fails, or the queries took a tenth of what gradients left, more of them follow (`trial`), and
    where it fails they go on after these (`square`), as long as the margin falls fast enough; a search that came close
    is followed by another (`gauntlet.attacks.query_fallback`).

    Everything is decided from the sample itself, so neither batch-mates nor chunks matter. Records name the phase that
    broke a sample: screen, relaxed, restart, the kind of attempt, sparse, probe, trial or square.

    Args:
        steps: of the screen, >= 1.
        rounds: attempts that follow at most, >= 0.
        round_steps: of each until all kinds had their turn, >= 1; of the next as many twice that, and so on.
        gap: the largest gap of a sample that is tried again, >= 0; after n attempts, gap / (1 + n / 2). `FAR` and
            `NEAR` times that where runs go through a relaxed ball.
        turns: ODI steps of eps before a `turn`, >= 0.
        mismatch: relative error of the linear model beyond which gradients are not believed, > 0.
        probe: queries to each survivor, >= 0.
        trial: queries at most to samples whose gradients are not believed, and where the probe did well, those of the
            probe included, >= 0.
        queries: of a search to the former at most, those of the trial included, >= 0.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    revisions: ClassVar[dict[str, int]] = {"linf": 4, "l2": 4, "l1": 4, "targeted": 5}
    """Version 1 moved 5 % of the entries under l1; up to 1 (linf, l2) and 2 (l1) queries began anew after a trial, and
    attempts of wide bounds stood where runs go through a relaxed ball now; up to 2 (linf, l2) bounds after such runs
    were as narrow under a targeted threat; up to 3 queries began at stripes or bumps and not at the best point; up to 4
    half of a targeted screen ascended the probability margin."""
    KINDS: ClassVar[tuple[str, ...]] = ("probability", "turn", "margin", "turn", "rival")
    L1_KINDS: ClassVar[tuple[str, ...]] = ("truth", "probability", "truth", "turn", "rival")
    L1_EFFORT: ClassVar[int] = 2
    """Sparse steps need so many times the screen, and restarts break samples of so many times the gap."""
    SPARSE: ClassVar[tuple[dict[str, float], ...]] = ({"step_size": 0.3}, {"sigma": 0.01}, {})
    """How the runs of sigma-zero under l0 differ from its defaults."""
    SPARSE_EFFORT: ClassVar[int] = 50
    """Steps of each of them, in units of those of the screen."""
    RELAXED_NORMS: ClassVar[tuple[str, ...]] = ("linf", "l2")
    RELAXED: ClassVar[RelaxedSearch] = RelaxedSearch(early=0.25, bounds=(0.125, 0.03, 0.01, 0.005, 0.005))
    RIVALS: ClassVar[int] = 4
    """Other classes that runs through a relaxed ball go to at most, of those with the best logits."""
    DISTANCE: ClassVar[float] = 1.5
    """The largest distance of a class's linearized boundary, in eps; runs go to the nearest class however far it is."""
    FAR: ClassVar[float] = 1.4
    """The largest gap of a sample that such runs try, in units of `gap`."""
    NEAR: ClassVar[float] = 0.2
    """The largest gap of a sample that attempts try after such runs, in units of what it is without them. Under a
    targeted threat these had one class to go to, and it stays what it is."""

    steps: int = knob(20, least=1)
    rounds: int = knob(12, least=0)
    round_steps: int = knob(30, least=1)
    gap: float = knob(0.5, least=0)
    turns: int = knob(5, least=0)
    mismatch: float = knob(0.25, above=0)
    probe: int = knob(20, least=0)
    trial: int = knob(500, least=0)
    queries: int = knob(5000, least=0)

    def bounds(self, number: int, threat: Threat, doubted: Tensor) -> Tensor:
        """Return the largest gap of each sample that attempt `number` (from 0) tries, [B]; doubted: bool [B]."""
        far = (self.L1_EFFORT if threat.norm == "l1" else 1) * self.gap / (1 + number / 2) if number else math.inf
        near = (1.0 if threat.targeted else self.NEAR) * self.gap / (1 + number / 2)
        return torch.where(doubted, far, near)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        state = GauntletState(head, x, y, threat, rng)
        if not len(x):
            return state.best.z
        steps = self.steps * (self.L1_EFFORT if threat.norm == "l1" else 1)
        # Far from a target the gradient of p_t - p_m does without p_t: it lowers the best class in favor of all others.
        state.run("screen", state.survivors(), _plan(TRUE, TRUE if threat.targeted else PROBABILITY, steps))
        relaxed = threat.norm in self.RELAXED_NORMS
        doubted = self._doubted(state) if relaxed else torch.ones_like(state.best.broken)
        if relaxed:
            self._search_near(state, ~doubted)
        for number in range(self.rounds):
            self._attempt(state, number, doubted)
        if threat.norm == "l0":
            for number, knobs in enumerate(self.SPARSE):
                state.sparse(SigmaZero(steps=self.SPARSE_EFFORT * self.steps, **knobs), number)
        else:
            fallback = QueryFallback(self.probe, self.trial, self.queries)
            fallback(state, doubted if relaxed else self._doubted(state))
        return state.best.z

    def _doubted(self, state: GauntletState) -> Tensor:
        """Return the survivors whose gradients are not believed, bool [B]."""
        index, doubted = state.survivors(), torch.zeros_like(state.best.broken)
        if len(index):
            doubted[index] = state.linearity_error(index) > self.mismatch
        return doubted

    def _search_near(self, state: GauntletState, sound: Tensor) -> None:
        """Go through the relaxed ball to the nearest classes of the samples that are near; sound: bool [B]."""
        index = state.survivors(sound & (state.gaps() <= self.FAR * self.gap))
        if not len(index):
            return
        draw = state.rng.select(index).stream("order")
        state.head.counts.enter("relaxed", draw.ids)
        classes, away = nearest_classes(
            state.head, state.best.z[index], state.y[index], self.RIVALS, state.threat.norm, draw
        )
        near = away <= self.DISTANCE * state.threat.select(index).budget(state.x[index]).flatten()[:, None]
        near[:, 0] = True
        order = state.y.new_zeros(len(state.x), classes.shape[1]).index_copy(0, index, classes)
        mine = torch.zeros_like(order, dtype=torch.bool).index_copy(0, index, near)
        self.RELAXED.search(
            state.head, state.best, mine, state.x, state.y, order, state.clean,
            threat=state.threat, rng=state.rng.stream("relaxed"),
            enter=lambda number, ids: state.head.counts.enter("restart" if number else "relaxed", ids),
        )  # fmt: skip

    def _attempt(self, state: GauntletState, number: int, doubted: Tensor) -> None:
        """Make one more attempt on the samples that are close."""
        index = state.survivors(state.gaps() <= self.bounds(number, state.threat, doubted))
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


def _plan(first: Cotangent, second: Cotangent, steps: int) -> list[Step]:
    """Return two losses for half of the steps each, along one cosine from 2 eps to 0."""
    half = steps // 2
    return [Step(first if i < half else second, 1 + math.cos(math.pi * i / steps)) for i in range(steps)]
