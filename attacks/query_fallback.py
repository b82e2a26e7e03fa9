"""Queries where gradients do not suffice: searches from the best point that gradients found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.gauntlet_state import GauntletState
from gauntlet.attacks.losses import margins
from gauntlet.threat_model.access import level_of, narrowed
from gauntlet.threat_model.passes import HostIndex, HostMask, HostValues, positions


@dataclass(frozen=True)
class QueryFallback:
    """One search by queries for each survivor, and a second where the first came close (Square, arXiv 1912.00049).

    A search starts from the best point so far and not from stripes: where gradients are masked they still took most of
    the margin. Squares are small from the beginning, since large ones lose what they took.

    Args:
        probe: queries to each survivor, >= 0. Those go on whose gradients are not believed, and those of whose
            remaining margin the probe took at least `GAIN`.
        trial: queries at most after which only the former go on, those of the probe included, >= 0; 0: nobody goes on.
        queries: of a search at most, >= 0.
    """

    AHEAD: ClassVar[int] = 200
    """Queries of the schedule of squares that a search leaves out."""
    GAIN: ClassVar[float] = 0.1
    STOPS: ClassVar[dict[int, tuple[float, float]]] = {
        50: (0.75, 1.0), 100: (0.68, 1.0), 150: (0.6, 1.0), 200: (0.55, 1.0), 300: (0.42, 1.0), 400: (0.36, 0.99),
        500: (0.33, 0.98), 750: (0.27, 0.95), 1000: (0.21, 0.8), 1500: (0.18, 0.6), 2000: (0.15, 0.45),
        3000: (0.06, 0.3),
    }  # fmt: skip
    """Queries, and the shares of the clean margin and of the margin at the start of the search above which no more are
    made then."""
    AGAIN: ClassVar[float] = 0.3
    """Share of the clean margin to which a search that took `GAIN` must have come for another."""

    probe: int
    trial: int
    queries: int

    def __call__(self, state: GauntletState, doubted: Tensor) -> None:
        """Query the survivors; doubted: whose gradients are not believed, bool [B]."""
        most = max(self.trial, self.queries) if self.trial else 0
        due = {self.probe: "trial", max(self.probe, self.trial): "square"} if most > self.probe else {}
        before = state.best.margin.clone()
        if self.probe:
            self._search(state, state.survivors(), doubted, "probe", max(self.probe, most), due)
        elif most:
            self._search(state, state.survivors(doubted), doubted, "trial", most, due)
        if most:
            taken = state.best.margin <= (1 - self.GAIN) * before
            close = doubted & taken & (state.best.margin <= self.AGAIN * state.clean)
            self._search(state, state.survivors(close), doubted, "square", most, {})

    def _search(
        self, state: GauntletState, index: Tensor, doubted: Tensor, phase: str, queries: int, due: Mapping[int, str]
    ) -> None:
        """Query the samples at `index`, int64 [b], from their best points.

        due: queries -> the phase that begins then, for the samples that go on.
        """
        if not len(index):
            return
        x, y, draw = state.x[index], state.y[index], state.rng.select(index).stream(phase)
        clean, left, masked = state.head.passes.read(state.clean[index], state.best.margin[index], doubted[index])
        state.head.counts.enter(phase, draw.ids)

        def going_on(query: int, rows: HostIndex, margin: HostValues) -> HostMask | None:
            stay = None
            if query in self.STOPS:
                of_clean, of_start = self.STOPS[query]
                stay = (margin <= of_clean * clean[rows]) & (margin <= of_start * left[rows])
            if query in due:
                more = masked[rows]
                if due[query] == "trial":
                    more = more | (margin <= (1 - self.GAIN) * left[rows])
                stay = more if stay is None else stay & more
                (further,) = positions(x.device, rows[stay & (margin > 0)])
                state.head.counts.enter(due[query], draw.ids[further])
            return stay

        attack = Square(queries=queries)
        z = attack.search(
            narrowed(state.head, level_of(attack)), x, y, threat=state.threat.select(index), rng=draw,
            start=state.best.z[index], ahead=self.AHEAD, going_on=going_on,
        )  # fmt: skip
        end = draw.stream("end")
        logits = state.head.scores(z, end)
        state.best.note(index, z, margins(logits, y), state.head.broken(z, logits, y, end, plain=True))
