"""What the pairs of a transfer run, each an attack and what it was crafted on, do to its target. Imports no torch.

The three metrics are those of PubDef (Sitawarin et al. 2024, arXiv 2310.17645): the mean over the pairs, the strongest
pair, and the union of all pairs for each sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import AdversarialSet, Lookup
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.metrics.display import number


@dataclass
class Pair:
    """Counts of one pair on one target.

    Attributes:
        stage: `<attack>/<source>`.
        identity: of its set; equal means the same candidates.
        sources: what they were crafted on: name -> victim, weights, defense.
        white_box: whether the target, or a network inside it, is among these.
        samples: all, also those that the target has wrong without an attack.
        right: ids of those that the target has right without an attack.
        survivors: ids of those that it still has right.
        shared: those of `right` that every source has right too; None where the set is not at hand.
        flipped: those of `shared` that the target has wrong on the candidate.
        length: sum of the L2 distances of the candidates of `right`.
    """

    stage: str
    identity: str
    sources: dict[str, dict[str, Any]]
    white_box: bool = False
    samples: int = 0
    right: set[int] = field(default_factory=set)
    survivors: set[int] = field(default_factory=set)
    shared: int | None = 0
    flipped: int = 0
    length: float = 0.0

    @property
    def label(self) -> str:
        """Return the stage, with the names of all sources."""
        return f"{self.stage.rpartition('/')[0]}/{'+'.join(sorted(self.sources))}"

    @property
    def accuracy(self) -> float:
        """Return the share of all samples that the target has right on the candidates."""
        return len(self.survivors) / max(1, self.samples)

    @property
    def rate(self) -> float:
        """Attack success rate: share flipped of those that the target has right."""
        return 1 - len(self.survivors) / max(1, len(self.right))

    @property
    def shared_rate(self) -> float | None:
        """Return the same of those that the sources have right too."""
        return None if not self.shared else self.flipped / self.shared

    @property
    def mean_length(self) -> float | None:
        """Return the mean L2 distance of the candidates."""
        return None if self.shared is None or not self.right else self.length / len(self.right)

    @property
    def group(self) -> str:
        """Kind of its sources, in words."""
        return "+".join(sorted({str(source.get("defense", "?")) for source in self.sources.values()}))


class Metrics(NamedTuple):
    """Accuracies of one target under several pairs."""

    mean: float
    strongest: Pair
    union: float


def metrics(pairs: Sequence[Pair]) -> Metrics | None:
    """Return the three metrics over the pairs whose sources do not hold the target; None where there is none.

    pairs: all of the same target and samples.
    """
    pairs = [pair for pair in pairs if not pair.white_box]
    if not pairs:
        return None
    strongest = min(pairs, key=lambda pair: (pair.accuracy, pair.stage))
    union = set.intersection(*(pair.survivors for pair in pairs))
    mean = sum(pair.accuracy for pair in pairs) / len(pairs)
    return Metrics(mean, strongest, len(union) / max(1, strongest.samples))


def pairs_of(run: RunFolder, manifest: Manifest) -> list[Pair]:
    """Return the pairs of a run, from its records, and from its sets where these are at hand.

    Raises:
        UserError: a part of the records is damaged.
    """
    pairs = {
        stage: Pair(stage, declared["set"], declared["sources"], _is_white_box(manifest, declared["sources"]))
        for stage, declared in sorted(manifest.get("sets", {}).items())
    }
    sets = {stage: _lookup(run, manifest, pair) for stage, pair in pairs.items()}
    for part in run.read_parts() if pairs else ():
        table = part.select(["sample", "stage", "broken", "error"]).to_pandas()
        table["fine"] = ~table["broken"] & table["error"].isna()
        clean = table[table["stage"] == CLEAN_STAGE]
        right = set(clean["sample"][clean["fine"]].tolist())
        for stage, pair in pairs.items():
            rows = table[(table["stage"] == stage) & table["sample"].isin(right)]
            pair.samples += len(clean)
            pair.right |= right
            pair.survivors |= set(rows["sample"][rows["fine"]].tolist())
            _measure(pair, rows, sets[stage])
    return list(pairs.values())


def _is_white_box(manifest: Manifest, sources: dict[str, dict[str, Any]]) -> bool:
    mine = {manifest["victim"], *manifest["weights"].values()}
    return any(mine & {source["victim"], *source.get("weights", {}).values()} for source in sources.values())


def _measure(pair: Pair, rows: pd.DataFrame, source: Lookup | None) -> None:
    """Add what only the set can tell; where it cannot be read, nothing is reported."""
    if source is None or pair.shared is None:
        pair.shared = None
        return
    try:
        found = source.find(rows["sample"].to_numpy())
    except UserError:
        pair.shared = None
        return
    delta: NDArray[np.float64] = (found["z"].astype(np.float64) - found["x"]).reshape(len(rows), -1)
    known = (found["clean_pred"] == found["label"][:, None]).all(1)
    pair.length += float(np.sqrt((delta**2).sum(1)).sum())
    pair.shared += int(known.sum())
    pair.flipped += int((known & rows["broken"].to_numpy()).sum())


def _lookup(run: RunFolder, manifest: Manifest, pair: Pair) -> Lookup | None:
    above = run.path.resolve().parents
    attack = manifest["config"].get("attack", {})
    node = attack.get("stages", {}).get(pair.stage.split("/")[0], attack)
    places = [above[min(4, len(above) - 1)] / "_sets" / pair.identity, Path(str(node.get("path") or pair.identity))]
    return next((Lookup(AdversarialSet(place)) for place in places if (place / "set.json").is_file()), None)


def lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield the pairs of one run as a table, and the three metrics."""
    if not pairs:
        return
    yield f"{'attack/source':<24}{'accuracy':>9}{'ASR':>9}{'ASR both':>10}{'mean L2':>9}"
    for pair in pairs:
        yield (
            f"{pair.stage + ('*' if pair.white_box else ''):<24}{pair.accuracy:>9.2%}{pair.rate:>9.2%}"
            f"{number(pair.shared_rate, '.2%'):>10}{number(pair.mean_length, '.3f'):>9}"
        )
    if rates := metrics(pairs):
        best = f"{rates.strongest.accuracy:.2%} ({rates.strongest.stage})"
        yield f"mean over pairs {rates.mean:.2%}, strongest pair {best}, union {rates.union:.2%}"
    yield "(ASR: flipped, of the samples that the target has right; both: of those that the sources have right too)"
    if any(pair.white_box for pair in pairs):
        yield "(* crafted on the target itself or on a network inside it; not in the metrics)"
