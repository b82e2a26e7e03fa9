"""What the draws of a randomized defense say: the worst candidate of each sample by some draws, its share by others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.evidence.schema import CLEAN_STAGE, FOOLED
from gauntlet.metrics.confidence import bounded_mean

COLUMNS = ("wrong_share", "margin", "fresh_share")

TRUE = "true"
"""The head that is the deployed forward."""

ACCURACIES = {"expected": "Expected accuracy", "vote": "Vote accuracy", "fixed": "Fixed-seed accuracy"}
"""Rule of a protocol -> name of the number under attack; three numbers that must not be mixed up."""


@dataclass(frozen=True)
class ExpectedAccuracy:
    """Share of right verdicts on the worst candidates, in [0, 1], and its 95 % interval.

    The share of an image is estimated from draws, or exact; either way it is one independent number in [0, 1] whose
    mean over images and draws is the accuracy, so that the interval covers both (see `bounded_mean`).

    Attributes:
        mean: the share; what it is at most where samples are open.
        interval: of the mean; from what it is with all open samples wrong to what it is at most.
        open: samples without an answer: an attack ended with an error, or nothing is on record, and what is known of
            them is not wrong in every draw.
        unknown: whether attacks said nothing of any sample that is not wrong without them.
    """

    mean: float
    interval: tuple[float, float]
    open: int = 0
    unknown: bool = False


@dataclass(frozen=True, eq=False)
class WorstCandidates:
    """The candidate of each sample that the most of its choosing draws got wrong, then the one of least margin.

    A row with an error has no candidate: nobody knows what the attack would have found. A sample without any other row
    counts as right, and as failed.

    Attributes:
        ids: of the samples, int64 [n], ordered.
        wrong: share of the choosing draws that are wrong there, [n].
        margin: of the candidate, [n].
        fresh: share of wrong verdicts in draws that did not choose, [n].
        head: that the candidate came from, [n].
        fooled: members of a mixture that any candidate made wrong, as bits, int64 [n].
        failed: whether the sample has a row with an error, bool [n].
    """

    ids: NDArray[np.int64]
    wrong: NDArray[np.float64]
    margin: NDArray[np.float64]
    fresh: NDArray[np.float64]
    head: NDArray[np.str_]
    fooled: NDArray[np.int64]
    failed: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> "WorstCandidates | None":
        """Return those of one chunk; None where the defense is deterministic."""
        if not set(COLUMNS) <= set(table.column_names):
            return None
        failed = pc.is_null(table["wrong_share"]).to_numpy(zero_copy_only=False)
        wrong, margin, fresh = (table[name].fill_null(0.0).to_numpy().astype(float) for name in COLUMNS)
        wrong[failed], margin[failed] = -1.0, np.inf  # every candidate comes before none
        stages = table["stage"].to_pylist() if "stage" in table.column_names else [""] * len(table)
        heads = np.array([stage.rpartition("/")[2] for stage in stages], np.str_)
        mixture = FOOLED.name in table.column_names
        fooled = table[FOOLED.name].fill_null(0).to_numpy() if mixture else np.zeros(len(table), np.int64)
        return cls(table["sample"].to_numpy(), wrong, margin, fresh, heads, fooled, failed).reduced()

    @classmethod
    def among(cls, several: Sequence["WorstCandidates"]) -> "WorstCandidates":
        """Return the worst over chunks, or over runs of one defense."""
        names = ("ids", "wrong", "margin", "fresh", "head", "fooled", "failed")
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in names)).reduced()

    def reduced(self) -> "WorstCandidates":
        """Return one candidate for each sample, ordered by id."""
        order = np.lexsort((self.margin, -self.wrong, self.ids))
        starts = np.unique(self.ids[order], return_index=True)[1]
        at = order[starts]
        fooled, failed = self.fooled, self.failed
        if len(starts):
            fooled = np.bitwise_or.reduceat(fooled[order], starts)
            failed = np.logical_or.reduceat(failed[order], starts)
        return WorstCandidates(
            self.ids[at], self.wrong[at], self.margin[at], self.fresh[at], self.head[at], fooled, failed
        )

    @property
    def open(self) -> NDArray[np.bool_]:
        """Return which samples lack an answer, bool [n]: those with an error that may yet be worse than is known."""
        found: NDArray[np.bool_] = self.failed & (self.fresh < 1)
        return found

    def accuracy(self, n: int = 0) -> ExpectedAccuracy:
        """Return the expected accuracy over n samples; those beyond the known ones are open."""
        missing = max(0, n - len(self.fresh))
        right = np.concatenate([1 - self.fresh, np.ones(missing)])
        unanswered = np.concatenate([self.open, np.ones(missing, bool)])
        low, high = bounded_mean(np.where(unanswered, 0.0, right))[0], bounded_mean(right)[1]
        return ExpectedAccuracy(float(right.mean()), (low, high), int(unanswered.sum()))


@dataclass(frozen=True, eq=False)
class RandomizedResult:
    """What the draws say of a run: on the clean images, after the true head alone, and after all that was attacked."""

    clean: WorstCandidates
    true: WorstCandidates
    all: WorstCandidates

    def accuracy(self, n: int = 0) -> ExpectedAccuracy:
        """Return the expected accuracy under attack over n samples; those beyond the known ones are open."""
        whole, right = self.all.accuracy(n), self.clean.fresh < 1
        silent = self.all.open[right] & (self.all.head[right] == CLEAN_STAGE)
        return replace(whole, unknown=bool(whole.open and silent.all()))

    @classmethod
    def of(cls, table: pa.Table) -> "RandomizedResult | None":
        """Return that of one chunk; None where the defense is deterministic."""
        every = WorstCandidates.of(table)
        clean = WorstCandidates.of(table.filter(pc.equal(table["stage"], CLEAN_STAGE)))
        deployed = pc.or_(pc.equal(table["stage"], CLEAN_STAGE), pc.ends_with(table["stage"], f"/{TRUE}"))
        true = WorstCandidates.of(table.filter(deployed))
        return cls(clean, true, every) if every and clean and true else None

    @classmethod
    def among(cls, several: Sequence["RandomizedResult"]) -> "RandomizedResult | None":
        """Return that over chunks, or over runs of one defense; None without any."""
        if not several:
            return None
        names = ("clean", "true", "all")
        return cls(*(WorstCandidates.among([getattr(one, name) for one in several]) for name in names))
