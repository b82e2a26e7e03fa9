"""Looks at a run after each chunk, and whether what is there is enough; see `gauntlet.config.stop_when`."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gauntlet.config.runtime import Runtime
from gauntlet.data.selection import selection_name
from gauntlet.errors import UserError
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.manifest import DataFacts, Manifest, StopFacts
from gauntlet.evidence.manifest_update import amend
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.anytime_interval import anytime
from gauntlet.metrics.attack_summary import summarize
from gauntlet.threat_model.attack import compares


@dataclass
class Looks:
    """What the chunks of a run say so far.

    Attributes:
        interval: half of the width that is enough.
        chunks: those that were counted.
        samples, robust: in them; of a randomized defense `robust` adds its accuracies up.
        open: samples without an answer; with one of them there is no interval, and nothing is enough.
    """

    run: RunFolder
    stages: list[str]
    interval: float
    chunks: set[int]
    samples: int = 0
    robust: float = 0.0
    open: int = 0

    @classmethod
    def of(cls, run: RunFolder, stages: list[str], interval: float) -> "Looks":
        """Return what to look with, before anything was counted."""
        return cls(run, stages, interval, set())

    def took(self, chunks: Iterable[int]) -> None:
        """Count more chunks, whose records are there."""
        for chunk in chunks:
            total = summarize(self.run, self.stages, [chunk])
            expected = total.expected
            self.samples += total.samples
            self.robust += total.samples * expected.mean if expected else total.robust
            self.open += expected.open if expected else total.open
            self.chunks.add(chunk)

    @property
    def ends(self) -> tuple[float, float]:
        """Return the interval."""
        return anytime(self.robust, self.samples)

    def enough(self) -> bool:
        """Return whether the run may end here: its first chunks are there, all of them, and say it narrowly."""
        low, high = self.ends
        return not self.open and self.chunks == set(range(len(self.chunks))) and (high - low) / 2 <= self.interval

    def facts(self, of: int) -> StopFacts:
        """Return what the manifest says of it. of: images that were to be attacked at most."""
        low, high = self.ends
        return StopFacts(interval=self.interval, low=low, high=high, images=self.samples, of=of)


def ended_early(manifest: Manifest) -> bool:
    """Return whether a run ended before its last image, because its interval was narrow enough."""
    return "stop_when" in manifest and manifest["stop_when"]["images"] < manifest["stop_when"]["of"]


def cut(mine: Manifest, ids: NDArray[np.int64], images: int) -> Manifest:
    """Return what the manifest of a run says of its data where it ended after so many images.

    Args:
        mine: the manifest of the whole run.
        ids: of the split, in the order in which the run attacks them.
    """
    chosen = selection_name(ids[:images], len(ids)) if images < len(ids) else mine["dataset"]["selection"]
    facts = mine["dataset"] | DataFacts(samples=images, selection=chosen)
    return Manifest(dataset=facts, chunks=-(-images // mine["chunk"]))


def reopened(run: RunFolder, manifest: Manifest, mine: Manifest, interval: float | None) -> Manifest:
    """Return the manifest of a run that ended early, whole again where more is asked than it has.

    mine: the manifest of the whole run.
    """
    if not ended_early(manifest):
        return manifest
    facts = manifest["stop_when"]
    if interval is not None and (facts["high"] - facts["low"]) / 2 <= interval:
        return manifest

    def whole(manifest: Manifest) -> None:
        manifest.update(Manifest(dataset=mine["dataset"], chunks=mine["chunks"], status="running"))
        for key in ("stop_when", "result", "finished"):
            manifest.pop(key, None)  # type: ignore[misc]

    return amend(run, whole)


def check(interval: float | None, runtime: Runtime, evaluation: Evaluation, transferred: bool) -> None:
    """Refuse to look at a run whose samples do not speak for the rest, or that nobody sees as a whole.

    Raises:
        UserError: shards or devices share it, or the attack, the threat or a transfer does not allow it.
    """
    if interval is None:
        return
    asked = f"stop_when.interval={interval:g}"
    if runtime.shards > 1 or runtime.devices is not None:
        raise UserError(f"{asked} needs one process that sees the whole run; leave runtime.shards and devices out")
    if evaluation.threat.unbounded:
        raise UserError(f"{asked} is about robust accuracy, which needs an eps; give threat.eps")
    if compares(evaluation.attack[1]):
        raise UserError(f"{asked} needs samples that do not depend on each other; this attack compares them")
    if transferred:
        raise UserError(f"{asked} is not for adversarial sets, which are made for all images; leave one of both out")
