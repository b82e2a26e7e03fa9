"""Items of a map-style data set as rows: each an image with its label, read when it is needed."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import MODES
from gauntlet.data.digest import Reading, digest_pieces
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError, described, printable

NORMALIZED = "give pixels in [0, 1], and put any normalization into the model"


@dataclass(frozen=True, eq=False)
class ItemRows:
    """The items of a data set. marks: a checksum of each image, by which an item that changes is told."""

    items: Any
    place: str
    form: tuple[int, int, int]
    labels: NDArray[np.int64]
    marks: NDArray[np.uint32]
    kind: np.dtype[Any]
    content: str
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, items: Any, place: str, channels: int, size: int) -> "ItemRows":
        """Read all items once.

        Args:
            place: what an item is called in messages, such as `test item`.

        Raises:
            UserError: they are no items, or one is no image of that form with a label.
        """
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise UserError(
                f"the {place}s are a {type(items).__name__}, which has no length or no items; give a map-style data "
                "set, as torch.utils.data.Dataset is"
            )
        count, form = len(items), (size, size, channels)
        labels, marks = np.zeros(count, np.int64), np.zeros(count, np.uint32)
        kinds: set[np.dtype[Any]] = set()

        def pieces() -> Iterator[NDArray[Any]]:
            for row in range(count):
                image, labels[row] = item(items, row, form, f"{place} {row}")
                marks[row] = zlib.crc32(image.tobytes())
                kinds.add(image.dtype)
                if len(kinds) > 1:
                    raise UserError(
                        f"{place} {row} has another type than the items before; give uint8 or float32 alone"
                    )
                yield image

        content = digest_pieces((count, *form), pieces(), labels)
        kind = kinds.pop() if kinds else np.dtype(np.uint8)
        return cls(items, place, form, labels, marks, kind, content)

    @property
    def levels(self) -> int:
        """Return the stored value that stands for 1.0."""
        return 255 if self.kind == np.uint8 else 1

    def images(self, rows: Ids, spread: Spread = map) -> NDArray[Any]:
        """Return [B, H, W, C], in the order of `rows`, one after the other: items need not bear several threads."""
        pixels = np.empty((len(rows), *self.form), self.kind)
        with self._lock:
            for position, row in enumerate(rows.tolist()):
                image, _ = item(self.items, row, self.form, self.where(row))
                if zlib.crc32(image.tobytes()) != self.marks[row]:
                    raise UserError(
                        f"{self.where(row)} is another image than before; give a transform without randomness"
                    )
                pixels[position] = image
        return pixels

    def where(self, row: int) -> str:
        """Return the place of an item, for messages."""
        return f"{self.place} {row}"

    def name(self, row: int) -> str:
        """Return nothing: items have no names."""
        return ""

    def digest(self) -> str:
        """Return the digest of all images and labels: that of the same content in arrays."""
        return self.content

    def reading(self) -> Reading:
        """Return the type of the pixels, where it is not uint8."""
        return {} if self.kind == np.uint8 else {"dtype": str(self.kind)}


def item(items: Any, row: int, form: tuple[int, int, int], where: str) -> tuple[NDArray[Any], int]:
    """Return an image [H, W, C], uint8 or float32, and its label.

    Raises:
        UserError: the item is none, with the remedy.
    """
    try:
        found = items[row]
    except Exception as cause:  # of the user's code: whatever it raises
        raise UserError(f"{where} cannot be read ({described(cause)}); fix the data set") from cause
    if not isinstance(found, tuple | list) or len(found) < 2:
        raise UserError(f"{where} is a {type(found).__name__}, no pair; let it be (image, label)")
    return _image(found[0], form, where), _label(found[1], where)


def _image(image: Any, form: tuple[int, int, int], where: str) -> NDArray[Any]:
    height, width, channels = form
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert(MODES[channels])).reshape(image.height, image.width, channels)
    elif isinstance(image, torch.Tensor | np.ndarray):
        array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
        if array.shape == form != (channels, height, width):
            raise UserError(f"{where} is an image [H, W, C], {list(form)}; give [C, H, W]: image.permute(2, 0, 1)")
        if array.ndim != 3:
            raise UserError(f"{where} is an image of shape {list(array.shape)}; give [C, H, W]")
        array = array.transpose(1, 2, 0)
    else:
        raise UserError(
            f"{where} is an image of type {type(image).__name__}; give a tensor [C, H, W] in [0, 1], such as by "
            "transform=torchvision.transforms.ToTensor()"
        )
    if array.shape != form:
        has, wants = ("x".join(map(str, (*shape[:2], shape[2]))) for shape in (array.shape, form))
        raise UserError(f"{where} is an image of {has} (height, width, channels), not {wants}; check dataset.size")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise UserError(f"{where} has pixels of type {array.dtype}; give uint8, or floating point in [0, 1]")
    ready = np.ascontiguousarray(array, np.float32)
    low, high = float(ready.min()), float(ready.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        fix = "divide by 255" if low >= 0 and 2 < high <= 255 else NORMALIZED
        raise UserError(f"{where} has pixels from {low:.4g} to {high:.4g}; {fix}")
    return ready


def _label(label: Any, where: str) -> int:
    if isinstance(label, torch.Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise UserError(
            f"{where} has the label {printable(label)[:40]} of type {type(label).__name__}; give its class number"
        )
    if not -(2**63) <= int(label) < 2**63:
        raise UserError(f"{where} has the label {label}; give class numbers from 0")
    return int(label)
