"""What one perturbation for all images does, from the records of its run. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.confidence import wilson


@dataclass
class Fooling:
    """Counts of one stage over all images, those that are misclassified without the perturbation too.

    Attributes:
        stage: `<attack>/<head>`.
        samples: with a candidate that counts.
        fooled: predicted as another class than without the perturbation.
        right: predicted as their label with it, and without it.
        before: the latter.
    """

    stage: str
    samples: int = 0
    fooled: int = 0
    right: int = 0
    before: int = 0

    @property
    def ratio(self) -> float:
        """Return P[f(clip(x + v)) != f(x)]."""
        return self.fooled / max(1, self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the fooling ratio."""
        return wilson(self.fooled, self.samples)

    @property
    def drop(self) -> float:
        """Return the accuracy without less accuracy with the perturbation."""
        return (self.before - self.right) / max(1, self.samples)


def fooling_of(run: RunFolder, manifest: Manifest) -> list[Fooling]:
    """Return the counts of each stage whose perturbation was fitted to train images."""
    found = {stage: Fooling(stage) for stage in manifest["stages"] if stage in manifest.get("fit", {})}
    for table in run.read_parts() if found else ():
        for stage, counts in found.items():
            part = table.filter(pc.and_(pc.equal(table["stage"], stage), pc.is_null(table["error"])))
            pred, clean, label = (part[name].to_numpy() for name in ("pred", "clean_pred", "label"))
            counts.samples += len(part)
            counts.fooled += int((pred != clean).sum())
            counts.right += int((pred == label).sum())
            counts.before += int((clean == label).sum())
    return list(found.values())


def fooling_lines(found: Sequence[Fooling], manifest: Manifest) -> list[str]:
    """Return the lines of a report."""
    out = []
    for each in found:
        low, high = each.interval
        fit = manifest["fit"][each.stage]
        out += [
            f"{each.stage}: fooling ratio {each.ratio:.2%} (95 % interval {low:.2%} to {high:.2%}), "
            f"accuracy drop {100 * each.drop:.2f} points",
            f"{each.stage}: fitted to {fit['images']} train images with {fit['forwards']} forwards and "
            f"{fit['backwards']} backwards in {fit['seconds']:.1f} s",
        ]
    return out
