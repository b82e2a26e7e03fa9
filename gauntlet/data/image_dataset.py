"""What every data set shares: the fields, and a split over rows of a source of uint8 images."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gauntlet.data.dataset import PARTS, Batch, Split, Spread
from gauntlet.data.decoding import MODES, Pixels
from gauntlet.data.digest import Reading, canonical, derive
from gauntlet.data.resizing import LARGEST
from gauntlet.data.selection import Ids, select, selection_name
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, knob


class Source(Protocol):
    """Rows of images with labels, in memory or on disk."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[rows]"""

    @property
    def levels(self) -> int:
        """The stored value that stands for 1.0."""

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """uint8 [B, H, W, C], in the order of `rows`. Several threads may ask at once."""

    def where(self, row: int) -> str:
        """The place of a row in words, for messages."""

    def name(self, row: int) -> str:
        """The name of a row as the files have it, a path as a rule; empty where it has none."""

    def digest(self) -> str:
        """Of every row as it is stored."""

    def reading(self) -> Reading:
        """The options that decide what images and labels the stored rows become; empty where there are none."""


@dataclass(frozen=True)
class Part:
    """The rows of a source that make one part of a data set, in the order of the split."""

    source: Source
    rows: Ids
    sliced: bool = False  # the source has other rows, which belong to another part


@dataclass(frozen=True, kw_only=True)
class ImageSet(Knobs, ABC, key="dataset"):
    """A data set.

    name: as it stands in the path of a run.
    classes, channels (1 or 3), size (height and width in pixels): what its images are.
    budgets: the reference eps of each norm; `threat=linf` and so on start from it.
    limit: use the first `limit` images of the test part; null uses them all.
    indices: a file with the ids, or the names, of the test images to use, one a line (`#` starts a comment), or a
        `.npy` file of ids.
    """

    name: str
    classes: int = knob(whole=True, least=2, hint="give the number of the data set")
    channels: int
    size: int = knob(whole=True, least=1, most=LARGEST, hint="pixels")
    budgets: dict[str, str | float] = field(default_factory=lambda: {"linf": "8/255", "l2": 0.5, "l1": 12.0})
    limit: int | None = knob(None, whole=True, least=1, optional=True, hint="null uses all images")
    indices: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[\w.+-]+", self.name) or self.name.startswith("."):
            raise UserError(f"dataset.name={self.name!r} cannot name a folder; use letters, digits, _ and -")
        if self.channels not in MODES:
            raise UserError(f"dataset.channels={self.channels} is not supported; use 1 (gray) or 3 (RGB)")

    @abstractmethod
    def open(self, part: str) -> Part:
        """The rows of one part, before any selection."""

    def class_names(self) -> tuple[str, ...]:
        """Return the name of every class, in the order of their numbers; empty where they have none."""
        return ()

    def split(self, part: str) -> Split:
        if part not in PARTS:
            raise ValueError(f"{part!r} is not one of {', '.join(PARTS)}")
        opened = self.open(part)
        if len(opened.rows) == 0:
            raise UserError(f"the {part} part of {self.name} holds no images; check the files that dataset names")
        chosen = select(opened.rows, self.limit, self.indices, opened.source.name) if part == "test" else opened.rows
        self._check_labels(opened.source, chosen)
        form = (self.channels, self.size, self.size)
        return SourceSplit(opened.source, chosen, form, len(opened.rows), part if opened.sliced else "")

    def _check_labels(self, source: Source, rows: Ids) -> None:
        labels = source.labels[rows]
        wrong = np.flatnonzero((labels < 0) | (labels >= self.classes))
        if not len(wrong):
            return
        row, label = int(rows[wrong[0]]), int(labels[wrong[0]])
        fix = "set dataset.classes to the number of classes, or fix the labels"
        every = source.labels  # a few of them need not have the lowest
        if int(every.min()) == 1 and int(every.max()) == self.classes:
            fix = f"the labels go from 1 to {self.classes}: subtract 1, they count from 0"
        elif label == -1:
            fix = "-1 stands for an image without a label: take a part that has labels, or leave it out"
        raise UserError(
            f"sample {row} of {self.name} ({source.where(row)}) has label {label}, "
            f"not one of 0 to {self.classes - 1}; {fix}"
        )


@dataclass(frozen=True, eq=False)
class SourceSplit:
    """A `Split` of chosen rows; the id of an image is its row in the source."""

    source: Source
    ids: Ids
    form: tuple[int, int, int]  # C, H, W
    total: int  # images before the selection
    cut: str  # the name of the part, where it is only a slice of the source

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        rows = self.ids[positions] if isinstance(positions, slice) else self.ids[np.asarray(positions, dtype=np.int64)]
        blank = np.empty((0, *self.form[1:], self.form[0]), np.uint8)
        pixels = self.source.images(rows, spread) if len(rows) else blank
        planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        x = planes.to(torch.float32).div_(self.source.levels)
        return Batch(torch.from_numpy(rows.copy()), x, torch.from_numpy(self.source.labels[rows]))

    def digest(self) -> str:
        found = self.source.digest()
        reading = canonical(self.source.reading())
        for word in (reading, self.cut):
            found = derive(found, word) if word else found
        return found

    def selection(self) -> str:
        return selection_name(self.ids, self.total)
