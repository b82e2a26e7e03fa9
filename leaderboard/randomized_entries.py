"""Randomised defenses: the worst candidate of each sample by some draws, and how bad it is by others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.evidence.schema import CLEAN_STAGE, FOOLED
from gauntlet.leaderboard.run_metadata import Run
from gauntlet.leaderboard.sample_verdicts import Floats, Ints
from gauntlet.metrics.ensemble_bounds import least, risks

COLUMNS = ("wrong_share", "margin", "fresh_share")

TRUE = "true"
"""The head that is the deployed forward."""

NAMES = {"expected": "Expected accuracy", "vote": "Vote accuracy", "fixed": "Fixed-seed accuracy"}
"""Rule of a protocol -> name of the number that it gives."""


@dataclass(frozen=True)
class Expected:
    """Share of right verdicts on the worst candidates, in [0, 1], and its standard error over samples.

    Each share is itself estimated from draws, so that the spread over samples holds that of the draws too.
    """

    mean: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % by the normal distribution."""
        return max(0.0, self.mean - 1.96 * self.error), min(1.0, self.mean + 1.96 * self.error)


@dataclass(frozen=True, eq=False)
class Worst:
    """The candidate of each sample that the most of its choosing draws got wrong, then the one of least margin.

    `fresh` is the share of wrong verdicts in draws that did not choose, `head` the head that the candidate came from,
    `fooled` the members of a mixture that any candidate made wrong, as bits. A row with an error is wrong throughout.
    """

    ids: Ints
    wrong: Floats
    margin: Floats
    fresh: Floats
    head: NDArray[np.str_]
    fooled: Ints

    @classmethod
    def of(cls, table: pa.Table) -> "Worst | None":
        """Of one chunk; None where the defense is deterministic."""
        if not set(COLUMNS) <= set(table.column_names):
            return None
        wrong, margin, fresh = (table[name].fill_null(1.0).to_numpy().astype(float) for name in COLUMNS)
        stages = table["stage"].to_pylist() if "stage" in table.column_names else [""] * len(table)
        heads = np.array([stage.rpartition("/")[2] for stage in stages], np.str_)
        mixture = FOOLED.name in table.column_names
        fooled = table[FOOLED.name].fill_null(-1).to_numpy() if mixture else np.zeros(len(table), np.int64)
        return cls(table["sample"].to_numpy(), wrong, margin, fresh, heads, fooled).reduced()

    @classmethod
    def among(cls, several: Sequence["Worst"]) -> "Worst":
        """The worst over chunks, or over runs of one defense."""
        names = ("ids", "wrong", "margin", "fresh", "head", "fooled")
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in names)).reduced()

    def reduced(self) -> "Worst":
        order = np.lexsort((self.margin, -self.wrong, self.ids))
        starts = np.unique(self.ids[order], return_index=True)[1]
        at = order[starts]
        united = np.bitwise_or.reduceat(self.fooled[order], starts) if len(starts) else self.fooled
        return Worst(self.ids[at], self.wrong[at], self.margin[at], self.fresh[at], self.head[at], united)

    def accuracy(self, n: int = 0) -> Expected:
        """Over n samples; those beyond the known ones are wrong."""
        right = np.concatenate([1 - self.fresh, np.zeros(max(0, n - len(self.fresh)))])
        error = float(right.std(ddof=1)) / math.sqrt(len(right)) if len(right) > 1 else 0.0
        return Expected(float(right.mean()), error)


@dataclass(frozen=True, eq=False)
class Chance:
    """What the draws say of a run: on the clean images, after the true head alone, and after all that was attacked."""

    clean: Worst
    true: Worst
    all: Worst

    @classmethod
    def of(cls, table: pa.Table) -> "Chance | None":
        """Of one chunk; None where the defense is deterministic."""
        every = Worst.of(table)
        clean = Worst.of(table.filter(pc.equal(table["stage"], CLEAN_STAGE)))
        deployed = pc.or_(pc.equal(table["stage"], CLEAN_STAGE), pc.ends_with(table["stage"], f"/{TRUE}"))
        true = Worst.of(table.filter(deployed))
        return cls(clean, true, every) if every and clean and true else None

    @classmethod
    def among(cls, several: Sequence["Chance"]) -> "Chance":
        """Over chunks, or over runs of one defense."""
        return cls(*(Worst.among([getattr(one, name) for one in several]) for name in ("clean", "true", "all")))


def draws_of(run: Run) -> str:
    """From how many draws a verdict comes, in words."""
    if run.rule == "fixed":
        return "one frozen draw, known to the attacker"
    return f"{run.draws} fresh draws" if run.draws else "exact over the members, nothing drawn"


def reason(run: Run, found: Sequence[Chance]) -> Iterable[str]:
    """Why a randomised defense has no rank: ranks compare verdicts that are either right or wrong."""
    if run.rule == "fixed":
        yield "its draws are frozen and known to the attacker (protocol=fixed)"
    elif run.rule and found:
        whole = Chance.among(found).all
        told = whole.accuracy()
        yield (
            f"its predictions are random: {100 * told.mean:.1f} % right on the worst candidates, standard error "
            f"{100 * told.error:.1f} (protocol={run.rule}, {draws_of(run)}){_members(run, whole)}"
        )


def _members(run: Run, whole: Worst) -> str:
    """Of a mixture: its members alone, and what the best probabilities can give."""
    names = [] if run.draws else [str(name).removeprefix("member_") for name, _ in run.manifest.get("members", [])]
    if not names:
        return ""
    found = risks(whole.fooled, len(names))
    alone = ", ".join(f"{name} {100 * (1 - each):.1f}" for name, each in zip(names, found, strict=True))
    low, high = least(found)
    return f"; its members alone: {alone}; with the best probabilities {100 * (1 - high):.1f} to {100 * (1 - low):.1f}"
