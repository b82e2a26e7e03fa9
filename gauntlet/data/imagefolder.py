"""Read images from one folder per class when they are needed."""

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode
from gauntlet.data.digest import Reading, any_turned, digest_files
from gauntlet.data.image_dataset import LARGEST, ImageSet, Part
from gauntlet.data.selection import Ids, hash_order, hold_out
from gauntlet.errors import UserError, reason, some
from gauntlet.system.file_reader import check_regular

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

ORDERS = ("auto", "number", "text")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageSet):
    """Images at `path/<part>/<class>/**/<image>`, classes numbered in the order of their folder names.

    Args:
        path: the folder of the set.
        train, test, validation: the folder of each part, relative to `path`; without a validation folder, a fixed tenth
            of the training images is held out.
        resize: null, and every image must be `size` x `size`; or the length that the shorter side is resized to before
            the center is cut out.
        order: of the classes: `number` (1, 2, 10), `text` (1, 10, 2), or `auto`: by number where all names are numbers.

    Sample ids follow the paths, class by class. The images come in a fixed hash order, so that `limit` takes a fair
    sample. Folders and files whose names begin with a dot are left out. Images are turned as their EXIF orientation
    says.
    """

    path: str
    train: str = "train"
    test: str = "test"
    validation: str | None = None
    resize: int | None = None
    order: str = "auto"
    name: str = "imagefolder"
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resize(self.resize, self.size)
        if self.order not in ORDERS:
            raise UserError(f"dataset.order={self.order} is unknown; choose {', '.join(ORDERS)}")

    def open(self, part: str) -> Part:
        """Return the rows of a part; see `ImageSet.open`."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"dataset.path={self.path} is not a folder; set it to the one that holds the images")
        own = {"train": self.train, "test": self.test, "validation": self.validation}[part]
        folder = root / (self.train if own is None else own)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; set dataset.{part} to the {part} part's place in dataset.path")
        form = Form(self.channels, self.size, self.resize, upright=True)
        cut = part != "test" and self.validation is None
        return folder_part(folder, self.classes, form, part, cut=cut, order=self.order)


def folder_part(folder: Path, classes: int, form: Form, part: str, cut: bool, order: str = "text") -> Part:
    """Return the images below a folder; where `cut`, only those of the part, training or the slice for validation.

    order: of the classes, see `ImageFolder`.
    """
    source = Folder.scan(folder, classes, form, order)
    rows = hash_order(len(source.labels))
    if cut and len(rows):
        training, validation = hold_out(len(rows))
        rows = rows[np.isin(rows, training if part == "train" else validation)]
    return Part(source, rows, sliced=cut)


def check_resize(resize: int | None, size: int) -> None:
    """Refuse a length that leaves nothing to cut `size` from, or that no memory holds."""
    if resize is not None and resize < size:
        raise UserError(f"dataset.resize={resize} is below dataset.size={size}; give at least the size, or null")
    if resize is not None and resize > LARGEST:
        raise UserError(f"dataset.resize={resize} is more than {LARGEST} pixels; give at most that")


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
    def scan(cls, folder: Path, classes: int, form: Form, order: str = "text") -> "Folder":
        """Return the images of a folder of classes; say what was left out, and how numbers became classes.

        Raises:
            UserError: the number of class folders is not `classes`, or a folder cannot be read.
        """
        counts: list[int] = []
        skipped: Counter[str] = Counter()
        try:
            found = class_names([e.name for e in os.scandir(folder) if e.is_dir() and not _hidden(e.name)], order)
            if len(found) != classes:
                empty = [name for name in found if next(_images(folder, name, skipped), None) is None]
                raise UserError(_wrong_count(folder, found, empty, classes))
            names = Names.of(name for each in found for name in _class(folder, each, counts, skipped))
        except OSError as cause:
            place = cause.filename or folder
            raise UserError(f"{place} cannot be read ({reason(cause)}); check dataset.path") from None
        _report(folder, found, counts, skipped)
        return cls(folder, names, np.repeat(np.arange(classes), counts), form)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """Return uint8 [B, H, W, C], in the order of `rows`."""
        pixels = np.empty((len(rows), self.form.size, self.form.size, self.form.channels), np.uint8)
        for position, image in enumerate(spread(self._image, rows.tolist())):
            pixels[position] = image
        return pixels

    def where(self, row: int) -> str:
        """Return the path of a row, for messages."""
        return str(self.folder / self.names[row])

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


def class_names(names: list[str], order: str) -> list[str]:
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
    return f"{said}{hint}; set dataset.classes={len(found)}, not {classes}"


def _report(folder: Path, names: list[str], counts: list[int], skipped: Counter[str]) -> None:
    """Say which files were left out, which classes are empty, and which number became which class."""
    if skipped:
        kinds = some([f"{count} {ending}" for ending, count in skipped.most_common()])
        log.warning("%s: left out files that are no images by their ending: %s", folder, kinds)
    if empty := [name for name, count in zip(names, counts, strict=True) if not count and any(counts)]:
        log.warning("%s: no image of class %s", folder, some(empty))
    if names != sorted(names):
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
