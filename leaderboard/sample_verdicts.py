"""The verdict on the samples of one chunk, from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.evidence.schema import ATTACK_SCHEMA

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AdversarialExample:
    """One candidate that fooled the deployed pipeline."""

    chunk: int
    sample: int
    stage: str
    label: int
    pred: int
    distance: float


@dataclass(frozen=True)
class StageTotals:
    """Totals of one stage of a run: samples, and passes or gradient steps summed over them."""

    name: str
    attacked: int
    successes: int
    forwards: int
    backwards: int
    zero_gradients: int
    bad_gradients: int

    @classmethod
    def of(cls, name: str, totals: Sequence[int]) -> "StageTotals":
        return cls(name, *totals)

    @property
    def attack(self) -> str:
        return self.name.rpartition("/")[0] or self.name

    @property
    def head(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """One entry per sample with a clean row, ordered by id: what a board keeps of a sample, 32 bytes.

    `totals` is int64 [stages, 6], a `StageTotals` per row; `spent` is int64 [6], in the order of `collect.RunPasses`.
    """

    ids: Ints
    clean_wrong: Bools
    nearest_distance: Floats
    complete: Bools
    by_true: Bools  # through the deployed forward alone
    label: NDArray[np.int32]
    reached: NDArray[np.int32]  # class of the nearest example that counts; of the clean prediction where that is wrong
    clean_margin: NDArray[np.float32]  # of the true class over the best other, without an attack
    totals: Ints
    spent: Ints
    counted: Bools  # per row of the table: an adversarial example that counts
    errors: int = 0
    repeated: int = 0
    unknown: int = 0
    outside: int = 0

    def examples(self, table: pa.Table, chunk: int, limit: int) -> list[AdversarialExample]:
        """Return adversarial examples of this chunk: one of each stage and class first, then a second of each."""
        found = np.flatnonzero(self.counted)
        if limit <= 0 or not len(found):
            return []
        kinds = np.stack([np.unique(_numpy(table[name])[found], return_inverse=True)[1] for name in ("stage", "label")])
        kind = np.unique(kinds, axis=1, return_inverse=True)[1].ravel()
        again = np.zeros(len(found), np.int64)  # how many of its kind stand before it
        for each in np.unique(kind):
            again[kind == each] = np.arange((kind == each).sum())
        chosen = np.sort(found[np.lexsort((found, again))[:limit]])
        rows = table.take(pa.array(chosen)).to_pylist()
        return [AdversarialExample(chunk, r["sample"], r["stage"], r["label"], r["pred"], r["distance"]) for r in rows]


def judge(table: pa.Table, stages: Sequence[str], reach: float) -> Verdicts:
    """Return the verdict on each sample of a table of rows.

    An adversarial example counts where its row is broken, has no error and lies within `reach`, and its sample is right
    without an attack. A sample is complete when every stage up to the one that broke it has a row without error; one
    outside is no answer either.
    """
    stage = _numpy(pc.fill_null(pc.index_in(table["stage"], value_set=pa.array(stages, pa.string())), -1))
    broken, distance, error = _numpy(table["broken"]), _numpy(table["distance"]), _numpy(pc.is_valid(table["error"]))
    attack, near = stage > 0, distance <= reach
    outside = broken & attack & ~near & ~error
    wrong = broken & (stage == 0) & ~error
    sample = _numpy(table["sample"])
    counted = broken & attack & near & ~error & ~np.isin(sample, sample[wrong])

    ids, first = np.unique(sample[stage == 0], return_index=True)
    clean = np.flatnonzero(stage == 0)[first]
    row, listed = locate(sample, ids)
    shape = (len(ids), len(stages))

    def grid(mask: Bools) -> Ints:
        cells = row[mask & listed] * len(stages) + stage[mask & listed]
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    rows, beaten = grid(stage >= 0), grid(counted | wrong) > 0
    before = np.cumsum(beaten, axis=1) - beaten > 0  # broken at an earlier stage: no later row is owed
    nearest_distance = np.full(len(ids), np.inf)
    np.minimum.at(nearest_distance, row[listed & counted], distance[listed & counted])
    pred = _numpy(table["pred"])
    reached = np.where(beaten[:, 0], pred[clean], -1).astype(np.int32)
    nearer = np.flatnonzero(listed & counted)[::-1]
    nearer = nearer[np.argsort(-distance[nearer], kind="stable")]  # the nearest last, of equal ones the first row
    reached[row[nearer]] = pred[nearer]
    deployed = np.array([name.endswith("/true") for name in stages], bool)
    passes = [_numpy(table[name]) for name in ("forwards", "backwards", "zero_gradients", "bad_gradients")]
    complete = np.all((grid((stage >= 0) & ~error & ~outside) > 0) | before, axis=1)
    per_sample = [np.sum(rows[:, 1:], axis=1) > 0]  # attacked
    per_sample += [_sums(row, np.where(listed & attack, each, 0), len(ids)) for each in passes[:2]]
    survivors = complete & ~beaten[:, 0] & ~np.isfinite(nearest_distance)
    return Verdicts(
        ids=ids,
        clean_wrong=beaten[:, 0],
        nearest_distance=nearest_distance,
        complete=complete,
        by_true=np.any(grid(counted)[:, deployed] > 0, axis=1),
        label=_numpy(table["label"])[clean].astype(np.int32),
        reached=reached,
        clean_margin=_numpy(table["margin"])[clean].astype(np.float32),
        totals=_totals(stage, counted | wrong, passes, len(stages)),
        spent=np.array([each[of].sum() for of in (slice(None), survivors) for each in per_sample], np.int64),
        counted=counted,
        errors=int(error.sum()),
        repeated=int((rows > 1).sum()),
        unknown=int((stage < 0).sum()),
        outside=int(outside.sum()),
    )


def merge(chunks: Sequence[Verdicts], stages: Sequence[str]) -> Verdicts:
    """Put chunks together, ordered by id. A sample that two chunks hold is reported as repeated and judged by its
    worst."""
    parts = [judge(ATTACK_SCHEMA.empty_table(), stages, 0.0), *chunks]
    names = ("ids", "clean_wrong", "nearest_distance", "complete", "by_true", "label", "reached", "clean_margin")
    columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    again = 0
    if not np.all(columns["ids"][1:] > columns["ids"][:-1]):
        columns, again = _merge_repeated(columns)
    return Verdicts(
        **columns,
        totals=np.sum([p.totals for p in parts], axis=0),
        spent=np.sum([p.spent for p in parts], axis=0),
        counted=np.zeros(0, bool),
        errors=sum(p.errors for p in parts),
        repeated=sum(p.repeated for p in parts) + again,
        unknown=sum(p.unknown for p in parts),
        outside=sum(p.outside for p in parts),
    )


def _merge_repeated(columns: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the columns ordered by id with each id once, judged by its worst, and how many were there again."""
    ids, first, place, times = np.unique(columns["ids"], return_index=True, return_inverse=True, return_counts=True)
    sums = {name: _sums(place, column, len(ids)) for name, column in columns.items() if column.dtype == bool}
    nearest_distance = np.full(len(ids), np.inf)
    np.minimum.at(nearest_distance, place, columns["nearest_distance"])
    flags = {name: total == times if name == "complete" else total > 0 for name, total in sums.items()}
    facts = {name: columns[name][first] for name in ("label", "clean_margin")}
    reached = np.full(len(ids), -1, np.int32)
    np.maximum.at(reached, place, columns["reached"])
    found = {"ids": ids, "nearest_distance": nearest_distance, "reached": reached, **facts, **flags}
    return found, int((times - 1).sum())


def locate(ids: Ints, among: Ints) -> tuple[NDArray[np.intp], Bools]:
    """Return positions of `ids` in the ordered `among`, and a mask of those that are there; the others point at 0."""
    if not len(among):
        return np.zeros(len(ids), np.intp), np.zeros(len(ids), bool)
    places = np.minimum(np.searchsorted(among, ids), len(among) - 1)
    there: Bools = among[places] == ids
    return np.where(there, places, 0), there


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy()
    return array


def _sums(place: NDArray[np.intp], values: NDArray[Any], count: int) -> Ints:
    """Return the sum of the values at each place; exact below 2^53."""
    return np.bincount(place, values, count).astype(np.int64)


def _totals(stage: Ints, beaten: Bools, passes: Sequence[Ints], stages: int) -> Ints:
    """Return the rows of each stage summed up, int64 [stages, 6], in the order of the fields of `StageTotals`."""
    known = stage >= 0
    columns = [np.ones(len(stage), np.int64), beaten, *passes]
    return np.stack([_sums(stage[known], column[known], stages) for column in columns], axis=1)
