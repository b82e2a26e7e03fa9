"""Success against queries, for attacks that take no gradient. Imports no torch.

What is counted: every forward pass of the defended pipeline for a sample until it is broken, the search for a start
included, and one for the clean prediction, so that the first question of an attack is the second query. Rates are over
the samples that are right without an attack, and a failure counts at every budget. Means and medians are over successes
only.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gauntlet.errors import OtherKind, UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE

BUDGETS = (100, 1_000, 2_500, 5_000, 10_000)
"""Queries at which rates are reported."""


CLEAN_CHECK = 1
"""Queries for the clean prediction."""


DIRECT = ("gradient", "score", "decision")
"""Values of `access` with which forward passes are questions to the model itself."""


@dataclass(frozen=True)
class Level:
    """What holds within a budget.

    Attributes:
        known: whether every failure had that many queries. Where not, `success` is a lower bound.
        success: share of the samples, in [0, 1]; the rest are failures.
        mean, median: queries of the successes; NaN without any.
    """

    budget: int
    known: bool
    success: float
    mean: float
    median: float


@dataclass(frozen=True, eq=False)
class QueryCurve:
    """The queries of one run.

    Attributes:
        queries: of each sample that is right without an attack, int64 [n].
        broken: which of these were broken, bool [n].
        wrong: samples that are wrong without an attack, and outside the rates.
        errors: samples of the n with an error on record; they count as failures.
    """

    queries: NDArray[np.int64]
    broken: NDArray[np.bool_]
    wrong: int = 0
    errors: int = 0

    @property
    def spent(self) -> float:
        """Return the queries that every failure had; infinite without failures."""
        return math.inf if self.broken.all() else float(self.queries[~self.broken].min())

    @property
    def end(self) -> float:
        """Return where the curve ends: at the largest of `BUDGETS`, or before that, where a failure had no more."""
        return min(float(BUDGETS[-1]), self.spent)

    @property
    def area(self) -> float:
        """Return the mean success over the logarithm of the queries, from 1 to `end`, in [0, 1]; NaN without
        samples."""
        if not len(self.queries) or self.end <= 1:
            return math.nan
        found = self.queries[self.broken & (self.queries <= self.end)]
        return float((1 - np.log(found) / math.log(self.end)).sum()) / len(self.queries)

    def at(self, budget: float) -> Level:
        """Return what holds within a budget; infinite: in the end."""
        within = self.queries[self.broken & (self.queries <= budget)]
        share = len(within) / len(self.queries) if len(self.queries) else math.nan
        middle = (float(np.mean(within)), float(np.median(within))) if len(within) else (math.nan, math.nan)
        return Level(int(min(budget, BUDGETS[-1])), self.spent >= budget, share, *middle)


def curve(run: RunFolder) -> QueryCurve:
    """Return the queries of a finished run, from its records alone.

    Raises:
        UserError: the passes on record are not the queries of an attack without gradients, or a part is damaged.
    """
    _check(run, run.manifest())
    parts = [_part(run, table) for table in run.read_parts()]
    return QueryCurve(
        np.concatenate([part.queries for part in parts]),
        np.concatenate([part.broken for part in parts]),
        sum(part.wrong for part in parts),
        sum(part.errors for part in parts),
    )


def _part(run: RunFolder, table: pa.Table) -> QueryCurve:
    """Return the curve of one chunk."""
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "error"}
    failed = table["error"].is_valid().to_numpy(zero_copy_only=False)
    clean = column["stage"] == CLEAN_STAGE
    right = clean & ~column["broken"]
    ids = np.unique(column["sample"][right])
    rows = ~clean & np.isin(column["sample"], ids)
    taken = np.unique(column["stage"][rows & (column["backwards"] > 0)])
    if len(taken):
        raise OtherKind(f"{run.path} takes gradients in {taken[0]}; name runs of attacks on scores or decisions alone")
    place = np.searchsorted(ids, column["sample"])
    spent = np.bincount(place[rows], column["forwards"][rows], len(ids)).astype(np.int64)
    error = np.bincount(place[rows & failed], minlength=len(ids)) > 0
    broken = np.bincount(place[rows & column["broken"]], minlength=len(ids)) > 0
    return QueryCurve(spent + CLEAN_CHECK, broken & ~error, int(clean.sum()) - len(ids), int(error.sum()))


def _check(run: RunFolder, manifest: Manifest) -> None:
    access = manifest.get("access", "gradient")
    if manifest["kind"] != "attack" or access not in DIRECT:
        raise OtherKind(f"{run.path} is a run of another kind; name runs of attacks that ask the model itself")
    if manifest["status"] not in ("done", "failed"):
        raise UserError(f"{run.path} is not finished; run its command again to go on: {manifest['command']}")
    if manifest["threat"]["radius"] is None:
        raise OtherKind(f"{run.path} measures distances, so nothing in it fails; name runs with a finite threat.eps")
    if manifest.get("coverage", "standing") != "standing" and len(manifest["stages"]) > 2:
        raise OtherKind(f"{run.path} attacks each sample in every stage; name runs whose stages meet only survivors")
