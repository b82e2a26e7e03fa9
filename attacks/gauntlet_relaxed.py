"""`gauntlet` with runs through a relaxed ball in place of most of its attempts."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gauntlet.attacks.gauntlet import Gauntlet, GauntletState
from gauntlet.attacks.linearized_boundary import nearest_classes
from gauntlet.attacks.relaxed_ball import RelaxedSearch
from gauntlet.knobs import knob


@dataclass(frozen=True)
class GauntletRelaxed(Gauntlet, key="attack"):
    """`gauntlet` that goes through a ball larger than eps where a sample is near, for linf and l2.

    After the screen of `gauntlet.attacks.gauntlet.Gauntlet` (PMA, arXiv 2411.15210), the other classes of each sample
    whose gap is at most `far` are ordered by the distance of their boundary, linearized at the best point so far
    (arXiv 2407.02240). Runs of the CR attack (AAAI 2025; `gauntlet.attacks.relaxed_ball`) go to the nearest, and again
    where one came close. Nearly every run ends early: after the relaxed steps of its first cycle where these leave more
    than a quarter of the clean margin, and later where the margin exceeds an ever smaller share of it. What is further
    away than `far` costs the screen and the probe alone. The attempts that follow, all kinds by turns, are for samples
    within a falling bound on the gap, from the first one on. Records name `relaxed` and `restart` besides the phases of
    `gauntlet`.

    Args:
        steps, rounds, round_steps, turns, mismatch, probe, trial, queries: as of `gauntlet`.
        gap: the largest gap of a sample that is tried again after the runs, >= 0; after n attempts, gap / (1 + n / 2).
        rivals: other classes that runs go to at most, of those with the best logits, >= 1.
        far: the largest gap of a sample that runs try, > 0.
        distance: the largest distance of a class's linearized boundary, in eps, > 0; runs go to the nearest class
            however far it is.

    Raises:
        UserError: a value outside its range.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    RELAXED: ClassVar[RelaxedSearch] = RelaxedSearch(early=0.25, bounds=(0.125, 0.03, 0.01, 0.005, 0.005))

    gap: float = knob(0.1, least=0)
    rivals: int = knob(4, least=1)
    far: float = knob(0.7, above=0)
    distance: float = knob(1.5, above=0)

    def bound(self, number: int, norm: str = "linf") -> float:
        return self.gap / (1 + number / 2)

    def _search_near(self, state: GauntletState) -> None:
        index = state.survivors(state.gaps() <= self.far)
        if not len(index):
            return
        draw = state.rng.select(index).stream("order")
        state.head.counts.enter("relaxed", draw.ids)
        classes, away = nearest_classes(
            state.head, state.best.z[index], state.y[index], self.rivals, state.threat.norm, draw
        )
        near = away <= self.distance * state.threat.select(index).budget(state.x[index]).flatten()[:, None]
        near[:, 0] = True
        order = state.y.new_zeros(len(state.x), classes.shape[1]).index_copy(0, index, classes)
        mine = torch.zeros_like(order, dtype=torch.bool).index_copy(0, index, near)
        self.RELAXED.search(
            state.head, state.best, mine, state.x, state.y, order, state.clean,
            threat=state.threat, rng=state.rng.stream("relaxed"),
            enter=lambda number, ids: state.head.counts.enter("restart" if number else "relaxed", ids),
        )  # fmt: skip
