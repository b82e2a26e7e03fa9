"""The images of a run in its pack, as a data set: for who has not the data, and where their license allows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from gauntlet.data.dataset import PARTS, Batch, Dataset, Split, Spread
from gauntlet.errors import UserError, reason
from gauntlet.system.file_reader import read_regular
from gauntlet.verification.pack_format import OpenedPack, PackedData

IMAGES = "images/test.safetensors"
MOST_BYTES = 64 << 30


def facts_of(dataset: Dataset) -> PackedData:
    """Return what a pack says of a data set; a part that it has not is left out."""
    parts: dict[str, list[str | int]] = {}
    for part in PARTS:
        try:
            split = dataset.split(part)
        except UserError:
            continue
        parts[part] = [split.digest(), split.selection(), len(split)]
    return PackedData(
        name=dataset.name, classes=dataset.classes, channels=dataset.channels, size=dataset.size,
        budgets=dict(dataset.budgets), parts=parts,
    )  # fmt: skip


def encoded_images(split: Split) -> bytes:
    """Return the images of a split with their ids and labels, as a safetensors file."""
    batch = split.read(slice(0, len(split)))
    arrays = {"ids": batch.ids.numpy(), "x": np.ascontiguousarray(batch.x.numpy()), "y": batch.y.numpy()}
    return safetensors.numpy.save(arrays)


@dataclass(frozen=True, eq=False)
class PackedSplit:
    """A part of a data set by its digests, and its images where the pack holds them."""

    facts: tuple[str, str, int]
    batch: Batch | None

    @property
    def ids(self) -> NDArray[np.int64]:
        """Return the ids of the images."""
        found: NDArray[np.int64] = self._images().ids.numpy()
        return found

    def __len__(self) -> int:
        return self.facts[2]

    def read(self, positions: Sequence[int] | slice, spread: Spread = map) -> Batch:
        """Return the images at these positions. Raises UserError where the pack has none of this part."""
        at: slice | Tensor = positions if isinstance(positions, slice) else torch.tensor(list(positions)).long()
        ids, x, y = self._images()
        return Batch(ids[at], x[at], y[at])

    def digest(self) -> str:
        """Return what the pack states, which nothing here can check."""
        return self.facts[0]

    def selection(self) -> str:
        """Return what the pack states."""
        return self.facts[1]

    def _images(self) -> Batch:
        if self.batch is None:
            raise UserError("the pack holds the images under attack alone; give the data set: --set dataset.path=DIR")
        return self.batch


class PackedImages:
    """The data set of a run as far as its pack holds it."""

    def __init__(self, pack: OpenedPack) -> None:
        self._facts, self._batch = pack.content["data"], _batch(pack.folder / IMAGES)
        stated = self._facts["parts"].get("test", ["", "", 0])
        if len(self._batch.ids) != stated[2]:
            raise UserError(f"the pack holds {len(self._batch.ids)} images, its pack.json says {stated[2]}")

    @property
    def name(self) -> str:
        return self._facts["name"]

    @property
    def classes(self) -> int:
        return self._facts["classes"]

    @property
    def channels(self) -> int:
        return self._facts["channels"]

    @property
    def size(self) -> int:
        return self._facts["size"]

    @property
    def budgets(self) -> dict[str, str | float]:
        return self._facts["budgets"]

    def split(self, part: str) -> PackedSplit:
        """Return a part. Raises UserError where the data set had none."""
        facts = self._facts["parts"].get(part)
        if facts is None or len(facts) != 3:
            raise UserError(f"the data set of the pack has no part {part}")
        return PackedSplit((str(facts[0]), str(facts[1]), int(facts[2])), self._batch if part == "test" else None)


def _batch(path: Path) -> Batch:
    try:
        arrays = safetensors.numpy.load(read_regular(path, MOST_BYTES))
        ids, x, y = (torch.from_numpy(arrays[name].copy()) for name in ("ids", "x", "y"))
    except (SafetensorError, KeyError, ValueError, TypeError, FileNotFoundError) as cause:
        raise UserError(f"the images of the pack cannot be read ({reason(cause)})") from None
    kinds = (ids.dtype, x.dtype, y.dtype) == (torch.int64, torch.float32, torch.int64)
    if not kinds or x.dim() != 4 or ids.shape != y.shape or len(ids) != len(x) or ids.dim() != 1:
        raise UserError("the images of the pack are not what images are")
    return Batch(ids, x, y)
