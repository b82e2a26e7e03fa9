"""A split in random order, for runs that may end before its last image: a folder is sorted by class as a rule."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.dataset import Batch, Split, Spread
from gauntlet.data.selection import hash_order


class ShuffledSplit:
    """The images of a split in the order of the hashes of their positions: the same on every machine and for every
    model, and chosen before any result.

    What the split is (digest, selection) is as it was; runs in this order are told apart by their own hash.
    """

    def __init__(self, source: Split) -> None:
        self.source, self._order = source, hash_order(len(source))

    @property
    def ids(self) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self.source.ids[self._order]
        return ids

    def __len__(self) -> int:
        return len(self.source)

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        """Return the images at these positions of the new order."""
        at = positions if isinstance(positions, slice) else list(positions)
        return self.source.read(self._order[at].tolist(), spread)

    def digest(self) -> str:
        """Return the digest of the whole part."""
        return self.source.digest()

    def selection(self) -> str:
        """Return which images are chosen."""
        return self.source.selection()


def in_order(split: Split) -> Split:
    """Return a split in the order of its data set."""
    return split.source if isinstance(split, ShuffledSplit) else split
