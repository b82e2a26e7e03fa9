"""What a data set promises to the rest of the program."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PARTS = ("train", "validation", "test")


class Batch(NamedTuple):
    """Some images with their labels."""

    ids: Tensor  # int64 [B], stable sample ids
    x: Tensor  # float32 [B, C, H, W] in [0, 1]
    y: Tensor  # int64 [B], in [0, classes)


Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""How the work on single images is done: one after the other by `map`, or by several threads; results in order."""


class Split(Protocol):
    """One part of a data set; images are read when they are asked for."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n], the position of each image in the unselected source split, after `limit` and `indices`."""

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        """The images at `positions` in [0, n), in that order; repeats are allowed. Any thread may ask.

        Raises:
            IndexError: a position outside the split.
            UserError: an image that cannot be decoded or has another size, named by file and row.
        """

    def digest(self) -> str:
        """Return `sha256:<hex>` of all that can be read from the whole part, whatever is selected.

        It covers the stored content and how it becomes images and labels: `channels`, `size`, `resize`, the names of
        the columns, whether images are turned. Up to 8 GiB, two splits with one digest and one selection give the same
        batches, so runs and shipped weights are kept under it (see `gauntlet.data.digest`). It does not cover where
        the files lie, nor the name of the data set.
        """

    def selection(self) -> str:
        """`all`, or a short hash of the chosen ids."""


class Dataset(Protocol):
    """A named set of images with a train, a validation and a test part."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> int: ...

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (RGB)."""

    @property
    def size(self) -> int:
        """Height and width in pixels."""

    @property
    def budgets(self) -> dict[str, str | float]:
        """The reference eps of each norm, such as `{"linf": "8/255", "l2": 0.5, "l1": 12.0}`."""

    def split(self, part: str) -> Split:
        """The part named `train`, `validation` or `test`.

        Raises:
            UserError: files are missing or damaged, a label is outside the classes, or the selection does not fit.
        """
