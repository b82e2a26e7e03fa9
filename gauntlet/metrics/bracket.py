"""Robust accuracy from both sides: what is proven, what is broken, and what is open in between. Imports no torch."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.display import points

SURVIVORS = "_survivors"
"""Folder below the runs folder in which a job lists what its attack left, for its certifier to take."""


def of_survivors(manifest: Mapping[str, Any]) -> bool:
    """Return whether a certificate run holds only what an attack left: its share says nothing of the data set."""
    indices = manifest["config"].get("dataset", {}).get("indices")
    return isinstance(indices, str) and SURVIVORS in PurePath(indices).parts


class Bracket(NamedTuple):
    """The robust accuracy at one eps lies between the proven share and the share that nothing broke.

    `proven`, `broken` and `open` are samples; they add up to `samples`, unless attack and certificate contradict each
    other. Broken holds those that are wrong without an attack. `by` names the certifiers.
    """

    samples: int
    proven: int
    broken: int
    by: str
    contradicted: int = 0

    @property
    def open(self) -> int:
        """Return the samples that are neither proven nor broken."""
        return self.samples - self.proven - self.broken + self.contradicted

    @property
    def interval(self) -> tuple[float, float]:
        """Return the lower 95 % end of the proven share, and the upper one of the share that is not broken (Wilson)."""
        return wilson(self.proven, self.samples)[0], wilson(self.samples - self.broken, self.samples)[1]

    def words(self) -> str:
        """Return the bracket in percent, such as `57.1 to 60.4 %, 3.3 open`."""
        low, high, left = (
            points(count / self.samples) for count in (self.proven, self.samples - self.broken, self.open)
        )
        return f"{low} to {high} %, {left} open"
