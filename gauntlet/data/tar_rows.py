"""Random access to the images of tar files in the layout of WebDataset.

Files of one sample follow each other and have one name up to the first dot of its last part: `cat/0001.jpg`,
`cat/0001.cls`. A tar file is read through once, for its labels and for where its images are; images are read when they
are asked for.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.class_map import ClassMap
from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode
from gauntlet.data.digest import Reading, any_turned, digest_files
from gauntlet.data.folder_rows import SUFFIXES, Names
from gauntlet.data.parquet_file import Stamp, stamp
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError, printable, reason
from gauntlet.system.file_reader import check_regular

MOST = 1 << 20
"""Bytes of a label, at most."""

WHOLE_NUMBER = 18
"""Digits of a class number, at most."""


class Label(NamedTuple):
    """Where labels are. ending: of their files; key: of the label in a JSON object; mapped: which class a text is."""

    ending: str
    key: str
    mapped: ClassMap | None


class Row(NamedTuple):
    """An image in a tar file. at: its first byte; size: its bytes; name: its path in the tar file."""

    file: int
    at: int
    size: int
    label: int
    name: str


@dataclass(eq=False)
class TarRows:
    """The images of some tar files, one after the other."""

    files: list[Path]
    stamps: list[Stamp]
    places: NDArray[np.int64]  # [rows, 3]: file, first byte, bytes
    labels: NDArray[np.int64]
    names: Names
    image: str | None  # ending of the images, where it was asked for
    form: Form
    levels: int = field(default=255, init=False)

    @classmethod
    def scan(cls, files: list[Path], image: str | None, label: Label, form: Form) -> "TarRows":
        """Read the labels, and where the images are.

        Args:
            image: ending of the images; None: any that is known, one a sample.

        Raises:
            UserError: a file is missing, damaged or compressed, or a sample has no label, or several images.
        """
        stamps, names = [], []
        places, labels = [], []
        for number, path in enumerate(files):
            with _reading(path):
                stamps.append(stamp(path))
                for row in _rows(path, number, image, label):
                    places.append((row.file, row.at, row.size))
                    labels.append(row.label)
                    names.append(row.name)
        found = np.asarray(places, np.int64).reshape(-1, 3)
        return cls(files, stamps, found, np.asarray(labels, np.int64), Names.of(names), image, form)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """Return uint8 [B, H, W, C], in the order of `rows`."""
        for number in np.unique(self.places[rows, 0]).tolist():
            self._check(number)
        pixels = np.empty((len(rows), self.form.size, self.form.size, self.form.channels), np.uint8)
        for position, image in enumerate(spread(self._image, rows.tolist())):
            pixels[position] = image
        return pixels

    def where(self, row: int) -> str:
        """Return the tar file and the path in it, for messages."""
        return f"{self.files[int(self.places[row, 0])]}, {printable(self.names[row])}"

    def name(self, row: int) -> str:
        """Return the path of an image in its tar file."""
        return self.names[row]

    def digest(self) -> str:
        """Return the digest of the files."""
        found = digest_files([("", path) for path in self.files], lambda _: self.places.tobytes() + self.names.letters)
        for number in range(len(self.files)):
            self._check(number)
        return found

    def reading(self) -> Reading:
        """Return what decides how files become images and labels; `exif` only where an image is stored turned."""
        exif = self.form.upright and any_turned([("", path) for path in self.files], self._stored)
        labels = hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()[:16]
        return {**self.form.reading(), "image": self.image, "labels": labels, "exif": "upright" if exif else None}

    def _image(self, row: int) -> Pixels:
        return decode(self._bytes(row), self.form, self.where(row))

    def _bytes(self, row: int) -> bytes:
        number, at, size = self.places[row].tolist()
        with _reading(self.files[number]), self.files[number].open("rb") as file:
            file.seek(at)
            data: bytes = file.read(size)
            return data

    def _stored(self, path: Path) -> Iterator[bytes]:
        number = self.files.index(path)
        yield from (self._bytes(row) for row in np.flatnonzero(self.places[:, 0] == number).tolist())

    def _check(self, file: int) -> None:
        """Refuse a file that is no longer the one whose labels were read."""
        path = self.files[file]
        with _reading(path):
            now = stamp(path)
        if now != self.stamps[file]:
            raise UserError(f"{path} was changed while it was in use; leave it as it is and run the same command again")


def _rows(path: Path, number: int, image: str | None, label: Label) -> Iterator[Row]:
    """Yield the images of one tar file with their labels."""
    check_regular(path, None, "check dataset.path")
    with tarfile.open(path, "r:") as tar:
        files = (member for member in _members(tar) if member.isreg() and not member.issparse())
        for key, members in groupby(files, lambda member: _split(member.name)[0]):
            found = {_split(member.name)[1]: member for member in members}
            mine = [ending for ending in found if (ending == image if image else f".{ending}" in SUFFIXES)]
            where = f"{path}, {printable(key)}"
            if not mine:
                continue  # such as a list of the files, or a sample of another kind
            if len(mine) > 1:
                raise UserError(f"{where} has several images ({', '.join(mine)}); set dataset.image to one of them")
            if label.ending not in found:
                has = ", ".join(map(printable, found))
                raise UserError(f"{where} has no label .{label.ending} (it has {has}); set dataset.label to its ending")
            kept = tar.extractfile(found[label.ending])
            content = kept.read(MOST + 1) if kept else b""
            place = found[mine[0]]
            yield Row(
                number, place.offset_data, place.size, _class(content, label, f"{where}.{label.ending}"), place.name
            )


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar file, and keep none: a file may have millions."""
    while (member := tar.next()) is not None:
        vars(tar)["members"].clear()
        if not member.name.rpartition("/")[2].startswith("."):
            yield member


def _split(name: str) -> tuple[str, str]:
    """Return the key of a file in a sample, and its ending, lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _class(content: bytes, label: Label, where: str) -> int:
    """Return the class number that a label file says."""
    if len(content) > MOST:
        raise UserError(f"{where} has more than {MOST} bytes; a label is a class number")
    try:
        value = json.loads(content) if label.ending.endswith("json") else content.decode().strip()
    except (ValueError, RecursionError) as cause:
        raise UserError(f"{where} is no label ({reason(cause)}); write a class number") from None
    if isinstance(value, dict):
        if label.key not in value:
            has = ", ".join(map(printable, value))[:200]
            raise UserError(f"{where} has no {label.key} (it has {has}); set dataset.key to that of the label")
        value = value[label.key]
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if label.mapped is not None and text:
        return label.mapped.number(text, f"{where}: the label {printable(text)[:40]}")
    if not text.lstrip("-").isdecimal() or len(text) > WHOLE_NUMBER:
        raise UserError(f"{where} says {printable(value)[:40]!r}, no class number; give dataset.class_map for names")
    return int(text)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check dataset.path") from None
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as cause:
        more = "; unpack it first: images are read from where they stand" if path.suffix != ".tar" else ""
        raise UserError(
            f"{path} is damaged or no plain tar file ({reason(cause)}){more or '; fetch it anew'}"
        ) from None
