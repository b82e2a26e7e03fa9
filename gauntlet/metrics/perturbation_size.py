"""How far an attack had to go: the distances of a run, curves over eps, and AttackBench's optimality. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import OtherKind, UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE

Floats = NDArray[np.float64]

Eps = TypeVar("Eps", float, Floats)


@dataclass(frozen=True, eq=False)
class Distances:
    """The answer of one run, for its samples in the order of their ids.

    Attributes:
        ids: int64 [n].
        distance: of the nearest adversarial example over all stages, float64 [n]: 0 where the clean image is
            misclassified, infinite where nothing was found.
        forwards, backwards: means per attacked sample, over all stages.
    """

    run: RunFolder
    manifest: Manifest
    ids: NDArray[np.int64]
    distance: Floats
    forwards: float
    backwards: float

    @property
    def limit(self) -> float:
        """Return the largest distance of which the run says anything: that of its eps, infinite without one."""
        radius = self.manifest["threat"]["radius"]
        return math.inf if radius is None else reach(float(radius))


def read(run: RunFolder) -> Distances:
    """Return the distances of a finished run.

    Raises:
        UserError: it is no attack, is not finished, or has rows with an error.
    """
    manifest = run.manifest()
    if manifest["kind"] != "attack":
        raise OtherKind(f"{run.path} holds a run of the kind {manifest['kind']}; only attacks have distances")
    if manifest["status"] != "done":
        raise UserError(f"{run.path} is {manifest['status']}; run its command again to go on: {manifest['command']}")
    return of_records(run, manifest)


def of_records(run: RunFolder, manifest: Manifest) -> Distances:
    """Return the distances in the records of an attack run whose chunks are all there, whatever its manifest says."""
    columns = _columns(run)
    ids, distance = _nearest(columns)
    clean = columns["stage"] == CLEAN_STAGE
    attacked = max(1, len(np.unique(columns["sample"][~clean])))
    forwards, backwards = (float(columns[name][~clean].sum()) / attacked for name in ("forwards", "backwards"))
    return Distances(run, manifest, ids, distance, forwards, backwards)


def _columns(run: RunFolder) -> dict[str, NDArray[Any]]:
    names = ["sample", "stage", "broken", "distance", "forwards", "backwards"]
    parts = [part.select(names) for part in run.read_parts()]
    return {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in names}


def _nearest(columns: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int64], Floats]:
    clean = columns["stage"] == CLEAN_STAGE
    ids = np.sort(columns["sample"][clean])
    far = np.where(columns["broken"], columns["distance"], np.inf)
    distance = np.full(len(ids), np.inf)
    np.minimum.at(distance, np.searchsorted(ids, columns["sample"]), np.where(clean & columns["broken"], 0.0, far))
    return ids, distance


@dataclass(frozen=True)
class Spread:
    """Quartiles of the distances of the samples that are right without an attack; infinite where that many survive.

    Attributes:
        right: these samples.
        survivors: those of them for which no adversarial example was found.
    """

    right: int
    survivors: int
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, distance: Floats) -> "Spread | None":
        """Summarize distances of the nearest adversarial examples, 0 where the clean prediction is wrong, [n].

        >>> Spread.of(np.array([0.0, 0.1, 0.2, 0.3, np.inf]))
        Spread(right=4, survivors=1, low=0.2, median=0.3, high=inf)
        """
        right = distance[distance > 0]
        if not len(right):
            return None
        low, median, high = (float(np.quantile(right, share, method="higher")) for share in (0.25, 0.5, 0.75))
        return cls(len(right), int(np.isinf(right).sum()), low, median, high)

    def quartiles(self) -> tuple[str, str, str]:
        """Return low, median and high, as text."""
        low, median, high = (f"{d:.4g}" if d < math.inf else "not found" for d in (self.low, self.median, self.high))
        return low, median, high


def spread_lines(run: RunFolder, norm: str) -> list[str]:
    """Return the answer of a run without a bound, for people; of the chunks that are there."""
    found = Spread.of(_nearest(_columns(run))[1])
    if found is None:
        return ["distance         no sample is right without an attack"]
    low, median, high = found.quartiles()
    return [
        f"distance         median {median}   25 % {low}   75 % {high}   ({norm}, of the samples that are right)",
        f"not broken       {found.survivors / found.right:7.2%}   ({found.survivors} of {found.right})",
    ]


def reach(eps: Eps) -> Eps:
    """Return the largest distance that counts as within eps: an attack that adds eps to a pixel in float32 lands up to
    3e-8 beyond it. The slack is that of `Threat.contains`.
    """
    return eps * (1 + 1e-6) + 1e-7


def accuracy(distance: Floats, eps: Sequence[float]) -> list[float]:
    """Return the share of the samples that survive at each eps, by the slack with which an evaluation judges.

    >>> accuracy(np.array([0.0, 0.1, 0.3, np.inf]), [0.0, 0.1, 1.0])
    [0.75, 0.5, 0.25]
    """
    return [float((distance > reach(each)).mean()) for each in eps]


def nearest(distances: Sequence[Floats]) -> Floats:
    """Return the best of several attacks on each sample: the AND rule at every eps."""
    best: Floats = np.min(distances, axis=0)
    return best


def area(distance: Floats, limit: float) -> float:
    """Return the area under the curve of accuracy up to eps = limit, which is the mean of min(d, limit), exactly.

    >>> area(np.array([0.0, 0.1, 0.3, np.inf]), 0.2)
    0.125
    """
    return float(np.minimum(distance, limit).mean())


def optimality(distance: Floats, best: Floats, limit: float | None = None) -> float:
    """Local optimality of an attack (Cina et al. 2024, arXiv 2404.19460): 1 where it is the best on every sample.

    (c L - A) / (c L - A*), with A the area under the attack's curve up to L, A* that of the pointwise best, and c the
    clean accuracy. 0: it has no success.

    Args:
        distance: of the attack, [n].
        best: of the pointwise best, of which this attack is part, [n].
        limit: L; None: the largest finite distance of the best, as in AttackBench.
    """
    if limit is None:
        limit = float(best[np.isfinite(best)].max(initial=0.0))
    most = limit * float((best > 0).mean())
    gain = most - area(best, limit)
    return (most - area(distance, limit)) / gain if gain > 0 else 1.0
