"""Images in one folder per class, read from disk when they are needed."""

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode
from gauntlet.data.digest import Reading, digest_files
from gauntlet.data.image_dataset import ImageSet, Part
from gauntlet.data.selection import Ids, hash_order, hold_out
from gauntlet.errors import UserError, reason

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSet):
    """`path/<part>/<class>/**/<image>`: classes are numbered in the order of their sorted folder names.

    path: the folder of the set.
    train, test, validation: the folder of each part, relative to `path`; without a validation folder, a fixed tenth
        of the training images is held out.
    resize: null, and every image must be `size` x `size`; or the length that the shorter side is resized to before
        the centre is cut out.

    Sample ids follow the sorted paths. The images come in a fixed hash order, so that `limit` takes a fair sample.
    """

    path: str
    train: str = "train"
    test: str = "test"
    validation: str | None = None
    resize: int | None = None
    name: str = "imagefolder"
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resize(self.resize, self.size)

    def open(self, part: str) -> Part:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"dataset.path={self.path} is not a folder; set it to the one that holds the images")
        own = {"train": self.train, "test": self.test, "validation": self.validation}[part]
        folder = root / (self.train if own is None else own)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; set dataset.{part} to the {part} part's place in dataset.path")
        form = Form(self.channels, self.size, self.resize)
        return folder_part(folder, self.classes, form, part, cut=part != "test" and self.validation is None)


def folder_part(folder: Path, classes: int, form: Form, part: str, cut: bool) -> Part:
    """All images below `folder`; where `cut`, only those that the validation slice leaves to or takes from training."""
    source = Folder.scan(folder, classes, form)
    order = hash_order(len(source.labels))
    if cut and len(order):
        training, validation = hold_out(len(order))
        order = order[np.isin(order, training if part == "train" else validation)]
    return Part(source, order, sliced=cut)


def check_resize(resize: int | None, size: int) -> None:
    if resize is not None and resize < size:
        raise UserError(f"dataset.resize={resize} is below dataset.size={size}; give at least the size, or null")


@dataclass(frozen=True, eq=False)
class Names:
    """Texts in as few bytes as they have letters: a list of a million paths would take 100 MB."""

    letters: bytes
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Names":
        letters, ends = bytearray(), array("q")
        for text in texts:
            letters += os.fsencode(text)
            ends.append(len(letters))
        return cls(bytes(letters), np.frombuffer(ends, np.int64) if ends else np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.letters[int(self.ends[row - 1]) if row else 0 : int(self.ends[row])])


@dataclass(frozen=True, eq=False)
class Labelled:
    """Each file of a folder with its label and name: a folder without images would shift the labels."""

    folder: "Folder"

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        of = self.folder
        for row, label in enumerate(of.labels.tolist()):
            yield f"{label} {of.names[row]}", of.folder / of.names[row]


@dataclass(frozen=True, eq=False)
class Folder:
    """The images below a folder. names: paths relative to it, sorted within each class."""

    folder: Path
    names: Names
    labels: NDArray[np.int64]
    form: Form
    levels: int = field(default=255, init=False)

    @classmethod
    def scan(cls, folder: Path, classes: int, form: Form) -> "Folder":
        """Raises UserError where the number of class folders is not `classes`."""
        try:
            found = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
            if len(found) != classes:
                raise UserError(
                    f"{folder} has {len(found)} class folders; set dataset.classes={len(found)}, not {classes}"
                )
            counts: list[int] = []
            names = Names.of(name for each in found for name in _class(folder, each, counts))
        except OSError as cause:
            place = cause.filename or folder
            raise UserError(f"{place} cannot be read ({reason(cause)}); check dataset.path") from None
        return cls(folder, names, np.repeat(np.arange(classes), counts), form)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        pixels = np.empty((len(rows), self.form.size, self.form.size, self.form.channels), np.uint8)
        for position, image in enumerate(spread(self._image, rows.tolist())):
            pixels[position] = image
        return pixels

    def where(self, row: int) -> str:
        return str(self.folder / self.names[row])

    def digest(self) -> str:
        return digest_files(Labelled(self), lambda _: b"")

    def reading(self) -> Reading:
        return self.form.reading()

    def _image(self, row: int) -> Pixels:
        path = self.folder / self.names[row]
        try:
            data = path.read_bytes()
        except OSError as cause:
            raise UserError(f"{path} cannot be read ({reason(cause)}); check dataset.path") from None
        return decode(data, self.form, str(path))


def _class(folder: Path, name: str, counts: list[int]) -> list[str]:
    """The sorted names of one class; how many there are is added to the counts."""
    names = sorted(_images(folder, name))
    counts.append(len(names))
    return names


def _images(folder: Path, name: str) -> Iterator[str]:
    for entry in os.scandir(folder / name):
        inner = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _images(folder, inner)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122  a Path per file is slow
            yield inner
