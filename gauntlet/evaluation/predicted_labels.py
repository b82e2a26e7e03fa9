"""Labels where a data set has none: what the deployed defense predicts without an attack (PMA, arXiv 2411.15210)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.data.dataset import Batch, Split, Spread
from gauntlet.errors import UserError
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim


@dataclass(frozen=True, eq=False)
class PredictedLabels:
    """A `Split` whose labels are predictions, made where its images are read.

    Where two scores are equal up to rounding, the prediction may depend on the batch; such an image counts as wrong
    without an attack.
    """

    source: Split
    victim: Victim
    seed: int
    device: torch.device
    batch_size: int

    @classmethod
    def of(cls, source: Split, victim: Victim, seed: int, device: torch.device, batch_size: int) -> "PredictedLabels":
        """Return the split. Raises UserError for a randomized defense, whose predictions are no labels."""
        if victim.randomized:
            raise UserError("images without labels need a deterministic defense: its predictions are their labels")
        return cls(source, victim, seed, device, batch_size)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Return the ids of the images, [n]."""
        return self.source.ids

    def __len__(self) -> int:
        return len(self.source)

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        """Return the images at these positions with their predicted labels; see `Split.read`."""
        return self.labeled(self.source.read(positions, spread))

    def labeled(self, batch: Batch) -> Batch:
        """Return the same images with their predicted labels."""
        found: list[Tensor] = []
        with torch.no_grad():
            for at in torch.arange(len(batch.ids)).split(self.batch_size):  # type: ignore[no-untyped-call]
                rng = Rng(self.seed, batch.ids[at].to(self.device), "labels")
                found.append(self.victim.predict(batch.x[at].to(self.device), rng).argmax(1).cpu())
        return batch._replace(y=torch.cat(found) if found else batch.y)

    def digest(self) -> str:
        """Return the digest of the whole part, images alone."""
        return self.source.digest()

    def selection(self) -> str:
        """Return which images are chosen."""
        return self.source.selection()
