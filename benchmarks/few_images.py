"""A data set of which training sees the first images only, and of which each image is decoded once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gauntlet.data import Dataset
from gauntlet.data.dataset import Batch, Split


@dataclass(frozen=True)
class Few:
    """A data set whose training part is cut to the first images; the other parts are whole."""

    whole: Dataset
    images: int
    parts: dict[str, "Remembered"] = field(default_factory=dict, repr=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def split(self, part: str) -> "Remembered":
        if part not in self.parts:
            whole = self.whole.split(part)
            self.parts[part] = Remembered(whole, self.images if part == "train" else len(whole))
        return self.parts[part]


@dataclass(frozen=True)
class Remembered:
    """The first images of a split, which lie in no order that means anything; what was read stays in memory."""

    whole: Split
    images: int
    read_before: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def ids(self) -> Any:
        return self.whole.ids[: self.images]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, positions: Sequence[int] | slice) -> Batch:
        rows = list(range(len(self))[positions] if isinstance(positions, slice) else positions)
        if missing := [row for row in dict.fromkeys(rows) if row not in self.read_before]:
            batch = self.whole.read(missing)
            self.read_before.update(zip(missing, zip(batch.x, batch.y, strict=True), strict=True))
        x, y = zip(*(self.read_before[row] for row in rows), strict=True)
        return Batch(torch.as_tensor(self.ids[rows]), torch.stack(x), torch.stack(y))

    def digest(self) -> str:
        return self.whole.digest()

    def selection(self) -> str:
        whole = self.images >= len(self.whole)
        return self.whole.selection() if whole else f"first {self.images}"
