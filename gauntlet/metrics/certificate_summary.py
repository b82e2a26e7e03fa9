"""The rows of a run that certifies, and what they add up to. Imports no torch."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.metrics.attribution_summary import COLUMNS, AttributionSummary
from gauntlet.metrics.confidence import mean_interval, most, wilson
from gauntlet.metrics.vote_shares import VoteShares

if TYPE_CHECKING:
    from gauntlet.evidence.run_folder import RunFolder


COUNTED = ("l0", "patch", "poisoning")
"""Norms whose radii are whole numbers: of pixels, or of changes of the training set."""


STEPS = 8
"""Radii of the curve that is shown: eighths of the largest, in round numbers."""


@dataclass
class CertificateSummary:
    """What the certificates of a run say. An abstention and an error count as wrong.

    Attributes:
        ids: of the samples, int64, ordered.
        radius: of each of them, float64; -1 where the prediction is wrong or the certifier abstains.
        abstained: samples without a prediction.
        samples_used, forwards: summed over the samples.
        graded: whether a radius was sought for each sample, not yes or no for one ball.
        votes: shares of the draws for the class, of the samples that are right; None where nothing was drawn.
        attribution: what is certified of attributions, where they are what does not change.
        errors: distinct error texts with their counts.
    """

    ids: NDArray[np.int64]
    radius: NDArray[np.float64]
    kinds: set[str] = field(default_factory=set)
    confidence: float = 1.0
    abstained: int = 0
    samples_used: int = 0
    forwards: int = 0
    trials: int = 0
    seconds: float = 0.0
    margin: float = math.inf
    graded: bool = False
    votes: VoteShares | None = None
    attribution: AttributionSummary | None = None
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return len(self.radius)

    @property
    def bounded(self) -> bool:
        """Return whether bounds made every certificate: the forwards are then the least part of the work, and say
        nothing.
        """
        return self.kinds == {"sound_det"} and not self.trials

    @property
    def correct(self) -> int:
        return self.certified(0.0)

    def certified(self, radius: float) -> int:
        """Return the samples that are predicted right and certified at that radius."""
        return int((self.radius >= radius).sum())

    def interval(self, radius: float) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the share certified at that radius: how far other images of its kind may
        lie."""
        return wilson(self.certified(radius), self.samples)

    @property
    def average(self) -> float:
        """Average certified radius, zero where the prediction is wrong (Zhai et al. 2020, arXiv 2001.02378)."""
        return float(np.maximum(self.radius, 0).mean()) if self.samples else 0.0

    @property
    def average_interval(self) -> tuple[float, float]:
        """Return Student's 95 % interval of the average radius, over images; not below zero."""
        low, high = mean_interval(np.maximum(self.radius, 0))
        return max(low, 0.0), high

    @property
    def abstained_interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the share without a prediction."""
        return wilson(self.abstained, self.samples)

    def surely(self, radius: float, doubt: float = 1e-3) -> float:
        """Return what the certified accuracy on these images is at least, with probability 1 - doubt over all draws.

        Each certificate fails with probability at most 1 - confidence, independently of the others, so that the number
        of failures is at most a binomial one.
        """
        fails = most(self.samples, 1 - self.confidence, doubt)
        return max(0.0, (self.certified(radius) - fails) / max(self.samples, 1))


def summary(run: "RunFolder") -> CertificateSummary:
    """Read the certificates of a run, one chunk at a time."""
    total = CertificateSummary(np.zeros(0, np.int64), np.zeros(0))
    ids, radii, votes = [total.ids], [total.radius], [np.zeros(0)]
    extra: list[pa.Table] = []
    voted = False
    for chunk in sorted(run.present()):
        table = run.read_part(chunk)
        fine = table["error"].is_null().to_numpy(zero_copy_only=False)
        right = table["correct"].to_numpy(zero_copy_only=False) & fine
        ids.append(table["sample"].to_numpy())
        radii.append(np.where(right, table["radius"].to_numpy(), -1.0))
        total.kinds |= set(table["kind"].to_pylist())
        total.confidence = min([total.confidence, *table["confidence"].to_pylist()])
        total.abstained += int((table["predict"].to_numpy() < 0).sum())
        total.samples_used += int(table["samples_used"].to_numpy().sum())
        total.forwards += int(table["forwards"].to_numpy().sum())
        voted |= bool(pc.max(pc.list_value_length(table["counts"])).as_py())
        extra.append(table.select([name for name in ("correct", *COLUMNS) if name in table.column_names]))
        votes.append(_votes(table)[right & (table["trials"].to_numpy() > 0)])
        total.trials = max([total.trials, *table["trials"].to_pylist()])
        total.seconds += sum(run.read_seconds(chunk).values())
        margins = table["margin"].to_numpy()
        asked = np.array([kind != "claimed" for kind in table["kind"].to_pylist()], bool)
        total.graded |= bool((np.isnan(margins) & fine & asked).any())
        sure = right & (table["radius"].to_numpy() > 0) & np.isfinite(margins)
        total.margin = min([total.margin, *margins[sure].tolist()])
        for text in table["error"].drop_null().to_pylist():
            total.errors[text] = total.errors.get(text, 0) + 1
    every = np.concatenate(ids)
    order = np.argsort(every, kind="stable")
    total.ids, total.radius = every[order], np.concatenate(radii)[order]
    total.attribution = AttributionSummary.of(extra)
    if total.samples_used and voted:
        total.votes = VoteShares(np.sort(np.concatenate(votes)), total.samples)
    return total


def _votes(table: pa.Table) -> NDArray[np.float64]:
    """Return the share of the votes for each prediction, the mean of the networks that vote; 0 where none was drawn."""
    hits = [sum(each) / max(len(each), 1) for each in table["counts"].to_pylist()]
    shares: NDArray[np.float64] = np.array(hits, float) / np.maximum(table["trials"].to_numpy(), 1)
    return shares


def grid(largest: float, norm: str = "") -> list[float]:
    """Radii from 0 up to the largest, in steps of 1, 2 or 5 times a power of ten; whole where pixels are counted."""
    if not largest > 0:
        return [0.0]
    rough = max(largest / STEPS, 1.0 if norm in COUNTED else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (1, 2, 5, 10) if norm in COUNTED else (1, 2, 2.5, 5, 10)
    step = next(n * power for n in steps if n * power >= rough * (1 - 1e-9))
    return [round(number * step, 12) for number in range(math.floor(largest / step + 1e-9) + 1)]
