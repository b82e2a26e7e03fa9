"""Randomised defenses: the worst candidate of each sample by some draws, and how bad it is by others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from leaderboard.chunk import Floats, Ints
from leaderboard.manifest import Run

COLUMNS = ("wrong_share", "margin", "fresh_share")


@dataclass(frozen=True, eq=False)
class Worst:
    """The candidate of each sample that the most of its choosing draws got wrong, then the one of least margin.

    `fresh` is the share of wrong verdicts in draws that did not choose. A row with an error counts as wrong throughout.
    """

    ids: Ints
    wrong: Floats
    margin: Floats
    fresh: Floats

    @classmethod
    def of(cls, table: pa.Table) -> "Worst | None":
        """Of one chunk; None where the defense is deterministic."""
        if not set(COLUMNS) <= set(table.column_names):
            return None
        columns = (table[name].fill_null(1.0).to_numpy().astype(float) for name in COLUMNS)
        return cls(table["sample"].to_numpy(), *columns).reduced()

    @classmethod
    def among(cls, several: Sequence["Worst"]) -> "Worst":
        """The worst over chunks, or over runs of one defense."""
        parts = ([getattr(one, name) for one in several] for name in ("ids", "wrong", "margin", "fresh"))
        return cls(*(np.concatenate(part) for part in parts)).reduced()

    def reduced(self) -> "Worst":
        order = np.lexsort((self.margin, -self.wrong, self.ids))
        first = order[np.unique(self.ids[order], return_index=True)[1]]
        return Worst(self.ids[first], self.wrong[first], self.margin[first], self.fresh[first])

    def accuracy(self) -> tuple[float, float]:
        """Mean share of right verdicts, and its standard error over samples."""
        right = 1 - self.fresh
        return float(right.mean()), float(right.std(ddof=1)) / math.sqrt(len(right)) if len(right) > 1 else 0.0


def reason(run: Run, worst: Sequence[Worst]) -> Iterable[str]:
    """Why a randomised defense has no rank: ranks compare verdicts that are either right or wrong."""
    if run.rule == "fixed":
        yield "its draws are frozen and known to the attacker (protocol=fixed)"
    elif run.rule and worst:
        mean, error = Worst.among(worst).accuracy()
        yield (
            f"its predictions are random: {100 * mean:.1f} % right on the worst candidates, standard error "
            f"{100 * error:.1f} (protocol={run.rule}, {run.draws} fresh draws)"
        )
