"""Images in folders, one folder per class, as rows of a data set."""

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.class_map import ClassMap
from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode
from gauntlet.data.digest import Reading, any_turned, digest_files
from gauntlet.data.image_dataset import Part
from gauntlet.data.selection import Ids, hash_order, hold_out
from gauntlet.errors import UserError, reason, some
from gauntlet.system.file_reader import check_regular

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

ORDERS = ("auto", "number", "text")
log = logging.getLogger(__name__)


def folder_part(source: "Folder", part: str, cut: bool) -> Part:
    """Return the images of a folder; where `cut`, only those of the part, training or the slice for validation."""
    rows = hash_order(len(source.labels))
    if cut and len(rows):
        training, validation = hold_out(len(rows))
        rows = rows[np.isin(rows, training if part == "train" else validation)]
    return Part(source, rows, sliced=cut)


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
    """The images below a folder. names: paths relative to it, class by class, sorted within each."""

    folder: Path
    names: Names
    labels: NDArray[np.int64]
    form: Form
    levels: int = field(default=255, init=False)

    @classmethod
    def scan(
        cls,
        folder: Path,
        classes: int,
        form: Form,
        order: str = "text",
        mapped: ClassMap | None = None,
        *,
        others: bool = False,
    ) -> "Folder":
        """Return the images of a folder of classes; say what was left out, and how numbers became classes.

        Args:
            order: of the classes, see `ImageFolder`.
            mapped: which class a folder is; None: each folder is one, and there are as many as classes.
            others: whether folders that the map lacks are left out, not refused.

        Raises:
            UserError: the number of class folders is not `classes`, one is not in the map, or one cannot be read.
        """
        counts: list[int] = []
        skipped: Counter[str] = Counter()
        try:
            found = in_order([e.name for e in os.scandir(folder) if e.is_dir() and not _hidden(e.name)], order)
            if mapped is not None and others:
                found = _known(folder, found, mapped)
            if not found:
                raise UserError(_no_classes(folder))
            if mapped is None and len(found) != classes:
                empty = [name for name in found if next(_images(folder, name, skipped), None) is None]
                raise UserError(_wrong_count(folder, found, empty, classes))
            numbers = range(classes) if mapped is None else _numbers(folder, found, mapped)
            names = Names.of(name for each in found for name in _class(folder, each, counts, skipped))
        except OSError as cause:
            place = cause.filename or folder
            raise UserError(f"{place} cannot be read ({reason(cause)}); check dataset.path") from None
        _report(folder, found, counts, skipped, mapped, classes)
        return cls(folder, names, np.repeat(np.asarray(numbers, np.int64), counts), form)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """Return uint8 [B, H, W, C], in the order of `rows`."""
        pixels = np.empty((len(rows), self.form.size, self.form.size, self.form.channels), np.uint8)
        for position, image in enumerate(spread(self._image, rows.tolist())):
            pixels[position] = image
        return pixels

    def where(self, row: int) -> str:
        """Return the path of a row, for messages."""
        return str(self.folder / self.names[row])

    def name(self, row: int) -> str:
        """Return the path of a row below the folder."""
        return self.names[row]

    def digest(self) -> str:
        """Return the digest of all files, with their class numbers and names."""
        return digest_files(Labelled(self), lambda _: b"")

    def reading(self) -> Reading:
        """Return what decides how files become images; `exif` only where a file is stored turned."""
        exif = self.form.upright and any_turned(Labelled(self), lambda path: [path.read_bytes()])
        return {**self.form.reading(), "exif": "upright" if exif else None}

    def _image(self, row: int) -> Pixels:
        path = self.folder / self.names[row]
        try:
            check_regular(path, None, "check dataset.path")
            data = path.read_bytes()
        except OSError as cause:
            raise UserError(f"{path} cannot be read ({reason(cause)}); check dataset.path") from None
        return decode(data, self.form, str(path))


def in_order(names: list[str], order: str) -> list[str]:
    """Return the folder names in the order of their class numbers.

    Raises:
        UserError: they have to be numbers, and one is not.
    """
    odd = [name for name in sorted(names) if not (name.isascii() and name.isdecimal())]
    if order == "number" and odd:
        raise UserError(f"dataset.order=number, but the class folder {odd[0]} is no number; set dataset.order=text")
    if order == "text" or odd:
        return sorted(names)
    return sorted(names, key=lambda name: (int(name), name))


def _wrong_count(folder: Path, found: list[str], empty: list[str], classes: int) -> str:
    """Return the message for a number of class folders that is not the data set's."""
    said = f"{folder} has {len(found)} class folders"
    if empty and len(found) - len(empty) == classes:
        return f"{said}, not {classes}, and no image is in {some(empty)}; remove what is no class"
    hint = f" (no image is in {some(empty)})" if empty else ""
    some_of = ", or say with dataset.class_map which of them these are" if len(found) < classes else ""
    return f"{said}{hint}; set dataset.classes={len(found)}, not {classes}{some_of}"


def _no_classes(folder: Path) -> str:
    """Return the message for a folder without class folders."""
    images = sum(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in os.scandir(folder))  # noqa: PTH122
    if images:
        return (
            f"{folder} has {images} images but no class folders; put the images of each class into a folder of its own"
        )
    return f"{folder} is empty; check dataset.path, and that the images lie in one folder per class"


def _known(folder: Path, found: list[str], mapped: ClassMap) -> list[str]:
    """Return the folders that the map has; say how many others are left out."""
    known = [name for name in found if name in mapped.numbers]
    if left := len(found) - len(known):
        log.warning("%s: left out %d folders that are not in %s", folder, left, mapped.origin)
    return known


def _numbers(folder: Path, found: list[str], mapped: ClassMap) -> list[int]:
    """Return the class of each folder; one that the map lacks is refused."""
    return [mapped.number(name, f"the class folder {folder / name}") for name in found]


def _report(
    folder: Path, names: list[str], counts: list[int], skipped: Counter[str], mapped: ClassMap | None, classes: int
) -> None:
    """Say which files were left out, which classes are empty, and which number became which class."""
    if mapped is not None:
        there = len({mapped.numbers[name] for name, count in zip(names, counts, strict=True) if count})
        log.warning("%s: images of %d of %d classes, numbered by %s", folder, there, classes, mapped.origin)
    if skipped:
        kinds = some([f"{count} {ending}" for ending, count in skipped.most_common()])
        log.warning("%s: left out files that are no images by their ending: %s", folder, kinds)
    if empty := [name for name, count in zip(names, counts, strict=True) if not count and any(counts)]:
        log.warning("%s: no image of class %s", folder, some(empty))
    if mapped is None and names != sorted(names):
        mapping = some([f"{name} is class {number}" for number, name in enumerate(names)])
        log.warning("%s: class folders are in the order of their numbers: %s", folder, mapping)


def _hidden(name: str) -> bool:
    """Return whether a name begins with a dot, as what editors and systems leave beside the data."""
    return name.startswith(".")


def _class(folder: Path, name: str, counts: list[int], skipped: Counter[str]) -> list[str]:
    """Return the sorted names of one class; how many there are is added to the counts."""
    names = sorted(_images(folder, name, skipped))
    counts.append(len(names))
    return names


def _images(folder: Path, name: str, skipped: Counter[str]) -> Iterator[str]:
    """Yield the paths of the images below one class, and count the endings of the other files."""
    for entry in list(os.scandir(folder / name)):
        inner = f"{name}/{entry.name}"
        if _hidden(entry.name):
            continue
        ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  a Path per file is slow
        if entry.is_dir():
            yield from _images(folder, inner, skipped)
        elif ending in SUFFIXES:
            yield inner
        else:
            skipped[ending or "without ending"] += 1
