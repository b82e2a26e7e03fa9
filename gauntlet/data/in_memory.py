"""A source of images that are held in memory."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Pixels
from gauntlet.data.digest import Reading, digest_arrays
from gauntlet.data.selection import Ids


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Args:
        pixels: [n, H, W, C], uint8, or float32 in [0, 1] with levels=1.
        labels: int64 [n].
        origin: where they come from, for messages.
        levels: the stored value that stands for 1.0.
        names: of the classes; empty: they have none.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    origin: str
    levels: int = 255
    names: tuple[str, ...] = ()
    _digest: list[str] = field(default_factory=list)

    @property
    def form(self) -> tuple[int, ...]:
        """Return H, W, C."""
        return self.pixels.shape[1:]

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        return self.pixels[rows]

    def where(self, row: int) -> str:
        return f"{self.origin}, image {row}"

    def name(self, row: int) -> str:
        """Return nothing: rows of arrays have no names."""
        return ""

    def digest(self) -> str:
        if not self._digest:
            self._digest.append(digest_arrays(self.pixels, self.labels))
        return self._digest[0]

    def reading(self) -> Reading:
        return {} if self.pixels.dtype == np.uint8 else {"dtype": str(self.pixels.dtype)}
