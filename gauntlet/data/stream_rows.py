"""Rows of a stream that is gone through again and again: a loader or pipeline whose images no memory need hold."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gauntlet.data.dataset import Spread
from gauntlet.data.digest import Reading, digest_pieces
from gauntlet.data.in_memory import Arrays
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError

WINDOW = 256 << 20
"""Bytes of images that were given last and are kept, so that a chunk that is asked for twice is read once."""


class StreamPiece(NamedTuple):
    """Some images of a stream, one after the other."""

    row: int  # of the first
    pixels: NDArray[np.float32]  # [B, H, W, C] in [0, 1], in the order of their axes
    labels: NDArray[np.int64]  # [B]


Pass = Callable[[int], Iterator[StreamPiece]]
"""Goes through a stream anew, from a row or from an earlier one."""


@dataclass(eq=False)
class StreamRows:
    """The images of a stream, in its order.

    Args:
        passes: goes through it.
        place: what it is called in messages.
        form: H, W, C.
        marks: a checksum of each image, by which one that changes is told.
        whole: whether all pixels are whole multiples of 1/255; they are given as uint8 then.
        content: digest of all images and labels: that of the same content in arrays.
    """

    passes: Pass
    place: str
    form: tuple[int, ...]
    labels: NDArray[np.int64]
    marks: NDArray[np.uint32]
    whole: bool
    content: str = ""
    names: tuple[str, ...] = ()
    _open: Iterator[StreamPiece] | None = None
    _next: int = 0
    _window: dict[int, NDArray[Any]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def levels(self) -> int:
        """Return the stored value that stands for 1.0."""
        return 255 if self.whole else 1

    def images(self, rows: Ids, spread: Spread = map) -> NDArray[Any]:
        """Return [B, H, W, C], in the order of `rows`; those that lie before the last ones begin a new pass."""
        with self._lock:
            missing = sorted(set(rows.tolist()) - self._window.keys())
            if missing and (self._open is None or missing[0] < self._next):
                self._open, self._next = self.passes(missing[0]), 0
            begin = self._next
            while missing and missing[-1] >= self._next:
                begin = self._read()
            found = np.stack([self._window[row] for row in rows.tolist()])
            self._forget(begin)
        return found

    def _read(self) -> int:
        """Read one piece into the window; return its first row."""
        source, self._open = self._open, None  # after an error a new pass begins
        piece = next(source, None) if source is not None else None
        if piece is None:
            raise UserError(f"{self.place} ends after {self._next} images, and had {len(self.labels)} before; {ALIKE}")
        pixels, self._open = self.checked(piece), source
        for at, image in enumerate(pixels):
            self._window.pop(piece.row + at, None)  # the youngest are last
            self._window[piece.row + at] = image
        self._next = piece.row + len(pixels)
        return piece.row

    def _forget(self, begin: int) -> None:
        """Drop the oldest images beyond the window, but none of the piece that begins at a row and was read last."""
        size = self._window[next(iter(self._window))].nbytes if self._window else 1
        for row in list(self._window)[: max(0, len(self._window) - WINDOW // size)]:
            if not begin <= row < self._next:
                del self._window[row]

    def checked(self, piece: StreamPiece) -> NDArray[Any]:
        """Return the pixels of a piece as they are held. Raises UserError where they are others than before."""
        end = piece.row + len(piece.pixels)
        if end > len(self.marks):
            raise UserError(f"{self.place} gives more than the {len(self.labels)} images that it had before; {ALIKE}")
        odd = np.flatnonzero((_marks(piece.pixels) != self.marks[piece.row : end]) | self._relabeled(piece, end))
        if len(odd):
            raise UserError(f"image {piece.row + int(odd[0])} of {self.place} is another than before; {ALIKE}")
        return _levels(piece.pixels) if self.whole else piece.pixels

    def _relabeled(self, piece: StreamPiece, end: int) -> NDArray[np.bool_]:
        return np.asarray(piece.labels != self.labels[piece.row : end])

    def where(self, row: int) -> str:
        """Return the place of an image, for messages."""
        return f"{self.place}, image {row}"

    def name(self, row: int) -> str:
        """Return nothing: rows of a stream have no names."""
        return ""

    def digest(self) -> str:
        """Return the digest of all images and labels."""
        return self.content

    def reading(self) -> Reading:
        """Return the type of the pixels, where it is not uint8."""
        return {} if self.whole else {"dtype": "float32"}


ALIKE = "let it give the same images in the same order each time: no shuffling, no random transform"


def read(passes: Pass, place: str, once: bool, most: int) -> Arrays | StreamRows:
    """Go through a stream, and return its images in memory, or, where they are too many bytes, as a stream.

    A stream is gone through a second time, for its digest, and again when images are needed.

    Args:
        passes: goes through it; see `Pass`.
        place: what it is called in messages.
        once: whether it can be gone through a single time.
        most: bytes of images, as they are held, that are kept in memory.

    Raises:
        UserError: it holds no images, or images of several sizes, can be read once and has more bytes than that, or
            gives other images the second time.
    """
    kept: list[NDArray[Any]] | None = []
    labels, marks, forms, whole, size = [], [], set[tuple[int, ...]](), True, 0
    for piece in passes(0):
        forms.add(piece.pixels.shape[1:])
        if len(forms) > 1:
            shapes = " and ".join(str(tuple(np.roll(form, 1).tolist())) for form in sorted(forms))
            raise UserError(f"images have different sizes, {shapes}; resize them first")
        labels.append(piece.labels)
        marks.append(_marks(piece.pixels))
        levels = _levels(piece.pixels)
        if whole and not np.array_equal(_floats(levels), piece.pixels):
            whole, size = False, 4 * size
            kept = None if kept is None else [_floats(each) for each in kept]
        held: NDArray[Any] = levels if whole else piece.pixels
        size += held.nbytes
        if size > most:
            if once:
                raise UserError(
                    f"{place} can be read once, and its images take more than {most >> 20} MiB; give a Dataset or a "
                    "DataLoader, which can be read again, or limit=N"
                )
            kept = None
        if kept is not None:
            kept.append(held)
    if not labels:
        raise UserError(f"{place} holds no images; give one that does")
    numbers = np.concatenate(labels)
    if kept is not None:
        return Arrays(np.concatenate(kept), numbers, "x", levels=255 if whole else 1)
    (form,) = forms
    rows = StreamRows(passes, place, form, numbers, np.concatenate(marks), whole)
    seen = 0

    def again() -> Iterator[NDArray[Any]]:
        nonlocal seen
        for piece in passes(0):
            seen += len(piece.pixels)
            yield rows.checked(piece)

    rows.content = digest_pieces((len(numbers), *form), again(), numbers)
    if seen < len(numbers):
        raise UserError(f"{place} ends after {seen} images, and had {len(numbers)} before; {ALIKE}")
    return rows


def _marks(pixels: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(image.tobytes()) for image in pixels], np.uint32)


def _levels(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the nearest multiples of 1/255."""
    found: NDArray[np.uint8] = (torch.from_numpy(pixels) * 255).round_().to(torch.uint8).numpy()
    return found


def _floats(levels: NDArray[Any]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = torch.from_numpy(levels).to(torch.float32).div_(255).numpy()
    return found
