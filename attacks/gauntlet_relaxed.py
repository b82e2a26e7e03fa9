"""`gauntlet` with runs through a relaxed ball in place of most of its attempts."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gauntlet.attacks.gauntlet import Gauntlet, GauntletState
from gauntlet.attacks.relaxed_ball import RelaxedSearch
from gauntlet.knobs import knob


@dataclass(frozen=True)
class GauntletRelaxed(Gauntlet, key="attack"):
    """`gauntlet` that goes through a ball larger than eps where a sample is near, for linf and l2.

    After the screen of `gauntlet.attacks.gauntlet.Gauntlet` (PMA, arXiv 2411.15210), runs of the CR attack (AAAI 2025;
    `gauntlet.attacks.relaxed_ball`) go to the best other classes of each sample whose gap is at most `far`, and again
    where a run came close. Every run drops the samples that it leaves far behind, and what is further away than `far`
    costs the screen and the probe alone. The attempts that follow, all kinds by turns, are for samples within a falling
    bound on the gap, from the first one on. Records name `relaxed` and `restart` besides the phases of `gauntlet`.

    Args:
        steps, rounds, round_steps, turns, mismatch, probe, trial, queries: as of `gauntlet`.
        gap: the largest gap of a sample that is tried again after the runs, >= 0; after n attempts, gap / (1 + n / 2).
        rivals: other classes that runs go to, >= 1.
        far: the largest gap of a sample that runs try, > 0.

    Raises:
        UserError: a value outside its range.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    RELAXED: ClassVar[RelaxedSearch] = RelaxedSearch(prune=0.25)

    gap: float = knob(0.1, least=0)
    rivals: int = knob(2, least=1)
    far: float = knob(0.7, above=0)

    def bound(self, number: int, norm: str = "linf") -> float:
        return self.gap / (1 + number / 2)

    def _search_near(self, state: GauntletState) -> None:
        index = state.survivors(state.gaps() <= self.far)
        if not len(index):
            return
        ranked = state.ranked_classes(index, "relaxed")[:, : self.rivals]
        order = state.y.new_zeros(len(state.x), ranked.shape[1]).index_copy(0, index, ranked)
        near = torch.zeros_like(state.best.broken).index_fill(0, index, True)
        self.RELAXED.search(
            state.head, state.best, near, state.x, state.y, order, state.clean,
            threat=state.threat, rng=state.rng.stream("relaxed"),
            enter=lambda number, ids: state.head.counts.enter("restart" if number else "relaxed", ids),
        )  # fmt: skip
