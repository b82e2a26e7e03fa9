"""The progress bar of an attack run: images, with the time left weighted by what each stage costs.

A stage of a suite may cost a hundred times another, and later ones attack fewer samples. Until a chunk is done, stages
are weighed by their knobs (steps, restarts, targets, queries); from then on by the seconds that they took for a sample
that they attacked. Samples that a stage need not attack are no work: they move nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.display import points
from gauntlet.system.progress import Bar

Interval = Callable[[int, int], tuple[float, float]]

FACTORS = ("steps", "restarts", "targets", "rounds", "queries")
"""Knobs that multiply the passes of an attack."""


def prior(attack: Any) -> float:
    """Return about how many passes of the network an attack spends on a sample that survives, from its knobs."""
    passes = 1.0
    for name in FACTORS:
        value = getattr(attack, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            passes *= value
    return passes


class AttackProgress:
    """Turns finished stages into images of the bar, and says the robust accuracy so far.

    Args:
        attacks: stage -> its attack, in the order of the stages, without the clean one.
        counts: whether samples are robust or not: a randomized defense has shares, an unbounded threat distances.
        interval: of so many robust samples out of so many.
    """

    def __init__(self, attacks: Mapping[str, Any], counts: bool = True, interval: Interval = wilson) -> None:
        self._weights = {CLEAN_STAGE: 1.0} | {name: prior(attack) for name, attack in attacks.items()}
        self._seconds = dict.fromkeys(self._weights, 0.0)
        self._attacked = dict.fromkeys(self._weights, 0)
        self._counts, self._interval, self._images, self._robust = counts, interval, 0, 0

    def share(self, done: Mapping[str, int], due: Mapping[str, int], images: int) -> float:
        """Return how much of a chunk is done, in [0, 1].

        Args:
            done: stage -> samples that it is through with.
            due: stage -> samples that it attacks, of the stages that have begun. Those to come are thought to meet as
                large a part of the images as in the chunks before, or at first all that the latest stage met.
            images: of the chunk.
        """
        latest, whole, spent = images, 0.0, 0.0
        for stage, weight in self._weights.items():
            expected = self._attacked[stage] * images / self._images if self._images else latest
            latest = due.get(stage, latest)
            whole += weight * due.get(stage, min(expected, latest))
            spent += weight * done.get(stage, 0)
        return min(1.0, spent / whole) if whole else 1.0

    def chunk(self, bar: Bar, images: int) -> "ChunkProgress":
        """Return what counts one chunk of so many images."""
        return ChunkProgress(self, bar, images)

    def done(self, rows: pa.Table, seconds: Mapping[str, float]) -> None:
        """Take in a finished chunk: what its stages cost, and how many of its images are robust.

        After an error there is no accuracy to show: the sample has no answer.
        """
        stages = Counter(rows["stage"].to_pylist())
        for stage in self._seconds:
            self._seconds[stage] += seconds.get(stage, 0.0)
            self._attacked[stage] += stages[stage]
        if any(self._seconds.values()):
            self._weights = {stage: spent / max(1, self._attacked[stage]) for stage, spent in self._seconds.items()}
        self._counts = self._counts and rows["error"].null_count == len(rows)
        sample = rows["sample"].to_numpy()
        fallen = sample[rows["broken"].to_numpy(zero_copy_only=False)]
        self._images += len(np.unique(sample))
        self._robust += len(np.setdiff1d(sample, fallen))

    def words(self) -> str:
        """Return the robust accuracy of the images that this process is done with; empty where there is none."""
        if not (self._images and self._counts):
            return ""
        low, high = self._interval(self._robust, self._images)
        return f"robust {points(self._robust / self._images)} % ({points(low)}-{points(high)}), "


class ChunkProgress:
    """Counts the stages of one chunk."""

    def __init__(self, whole: AttackProgress, bar: Bar, images: int) -> None:
        self._whole, self._bar, self._images = whole, bar, images
        self._done: dict[str, int] = {}
        self._due: dict[str, int] = {}
        self._shown = 0

    def advance(self, stage: str, count: int, due: int = 0) -> None:
        """So many more images are through with a stage, which attacks `due` of this chunk."""
        self._done[stage] = self._done.get(stage, 0) + count
        self._due[stage] = due
        self._bar.note(self._whole.words() + stage, refresh=False)
        self._reach(int(self._images * self._whole.share(self._done, self._due, self._images)))

    def close(self) -> None:
        """All of the chunk is done."""
        self._reach(self._images)

    def _reach(self, images: int) -> None:
        self._bar.update(max(0, images - self._shown))
        self._shown = max(images, self._shown)
