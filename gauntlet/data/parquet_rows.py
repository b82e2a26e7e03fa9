"""Random access to the encoded images of Parquet files in bounded memory.

A row group is read in blocks of at most `BLOCK` bytes, front to back, by one cursor. Reading forward, the last two
blocks are kept, so every row group is decoded once, and a file whose rows are all in one big group needs no more memory
than one with many small ones. Once a row group has to be read again, as in training, up to `CACHE` bytes are kept.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gauntlet.data.arrow_columns import bytes_column, check_classes, labels_digest, renumbers
from gauntlet.data.class_map import ClassMap
from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode, in_order
from gauntlet.data.digest import Reading, any_turned, digest_files
from gauntlet.data.parquet_file import (
    Group,
    Stamp,
    footer_bytes,
    open_file,
    read_labels,
    reading,
    row_groups,
    stamp,
)
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError

CACHE = 64 << 20
"""Most bytes of encoded images that are kept where reading jumps about."""


class Block(NamedTuple):
    """Encoded images of neighboring rows; None where a row has none."""

    images: list[bytes | None]
    size: int  # bytes


@dataclass
class Cursor:
    """A row group that is being read."""

    group: int
    batches: Iterator[pa.RecordBatch]
    next: int = 0  # block


def encoded(batch: pa.RecordBatch) -> pa.Array:
    """Return the column of encoded images, alone or within a struct."""
    column = batch.column(0)
    return pc.struct_field(column, 0) if pa.types.is_struct(column.type) else column


@dataclass(eq=False)
class ParquetRows:
    """The rows of some files, one after the other."""

    files: list[Path]
    stamps: list[Stamp]  # of the files as they were opened
    groups: list[Group]
    labels: NDArray[np.int64]
    column: str  # the path of the encoded bytes, such as `image.bytes`
    label: str  # the column of the labels
    form: Form
    class_map: str | None = None  # digest of the labels that a map of classes numbered
    levels: int = field(default=255, init=False)
    _starts: Ids = field(init=False)  # first row of each group, over all files
    _blocks: OrderedDict[tuple[int, int], Block] = field(default_factory=OrderedDict, init=False)
    _held: int = field(default=0, init=False)  # bytes in the blocks
    _visited: set[int] = field(default_factory=set, init=False)  # groups
    _jumps: bool = field(default=False, init=False)  # a group was read more than once
    _cursor: Cursor | None = field(default=None, init=False)
    _file: tuple[int, pq.ParquetFile] | None = field(default=None, init=False)
    _paths: pa.ChunkedArray | None = field(default=None, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(group.rows for group in self.groups)])[:-1]

    @classmethod
    def open(
        cls, files: list[Path], image: str, label: str, form: Form, classes: int, mapped: ClassMap | None = None
    ) -> "ParquetRows":
        """Read footers and labels.

        Args:
            classes: of the data set.
            mapped: which class a label is; see `class_numbers`.

        Raises:
            UserError: a file is missing, cut short or no Parquet file, or a column is missing or of another type.
        """
        stamps, groups, labels = [], [], []
        column, numbered = image, False
        for number, path in enumerate(files):
            with reading(path), open_file(path) as file:
                stamps.append(stamp(path))
                column = bytes_column(file.schema_arrow, image, path)
                groups += row_groups(file.metadata, number, column)
                check_classes(file.schema_arrow, label, classes, mapped, path)
                labels.append(read_labels(file, label, path, mapped))
                numbered = numbered or renumbers(file.schema_arrow, label, mapped)
        numbers = np.concatenate(labels)
        counts = labels_digest(numbers) if numbered else None
        return cls(files, stamps, groups, numbers, column, label, form, counts)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        with self._lock:  # forward through the files, whatever the order
            encoded = [(row, self._encoded(row)) for row in np.sort(rows).tolist()]
        return in_order(rows, encoded, self._decoded, self.form, spread)

    def where(self, row: int) -> str:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        found = self.groups[group]
        return f"{self.files[found.file]}, row {found.first + row - int(self._starts[group])}"

    def name(self, row: int) -> str:
        """Return the path that stands beside the bytes of a row; empty where none does."""
        if self._paths is None:
            self._paths = self._read_paths()
        return self._paths[row].as_py() or "" if self._paths is not None else ""

    def _read_paths(self) -> pa.ChunkedArray | None:
        """Return the paths of all images; None where the column of images has none."""
        column = self.column.removesuffix(".bytes") + ".path"
        chunks: list[pa.Array] = []
        for path in self.files:
            with reading(path), open_file(path) as file:
                if column not in [file.schema.column(number).path for number in range(len(file.schema))]:
                    return None
                for part in file.read(columns=[column]).column(0).chunks:
                    chunks.append(pc.struct_field(part, 0).cast(pa.string()))
        return pa.chunked_array(chunks, pa.string())

    def digest(self) -> str:
        found = digest_files([("", path) for path in self.files], outline=footer_bytes)
        for number in range(len(self.files)):
            self._check(number)
        return found

    def reading(self) -> Reading:
        """Return what decides how rows become images and labels; `exif` only where an image is stored turned."""
        exif = self.form.upright and any_turned([("", path) for path in self.files], self._column)
        return {
            **self.form.reading(), "image": self.column, "label": self.label, "class_map": self.class_map,
            "exif": "upright" if exif else None,
        }  # fmt: skip

    def _column(self, path: Path) -> Iterator[bytes]:
        """Yield the encoded images of one file."""
        number = self.files.index(path)
        with reading(path), open_file(path) as file:
            for group in (group for group in self.groups if group.file == number):
                for batch in file.iter_batches(group.block, row_groups=[group.index], columns=[self.column]):
                    yield from filter(None, encoded(batch).to_pylist())

    def _encoded(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        number, offset = divmod(row - int(self._starts[group]), self.groups[group].block)
        data = self._block(group, number).images[offset]
        if not data:
            raise UserError(f"{self.where(row)}: {self.column} is empty; write the images into the file")
        return data

    def _decoded(self, image: tuple[int, bytes]) -> Pixels:
        row, data = image
        return decode(data, self.form, self.where(row))

    def _check(self, file: int) -> None:
        """Refuse a file that is no longer the one whose labels, and whose digest, were read."""
        path = self.files[file]
        with reading(path):
            now = stamp(path)
        if now != self.stamps[file]:
            raise UserError(f"{path} was changed while it was in use; leave it as it is and run the same command again")

    def _block(self, group: int, number: int) -> Block:
        key = (group, number)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        try:
            self._read(group, number)
        finally:  # what a changed file held is not what was asked for, and what it leads to not the cause
            self._check(self.groups[group].file)
        return self._blocks[key]

    def _read(self, group: int, number: int) -> None:
        with reading(self.files[self.groups[group].file]):
            if self._cursor is None or self._cursor.group != group or self._cursor.next > number:
                self._jumps = self._jumps or group in self._visited
                self._visited.add(group)
                self._cursor = Cursor(group, self._batches(self.groups[group]))
            while self._cursor.next <= number:
                self._keep((group, self._cursor.next), next(self._cursor.batches, None))
                self._cursor.next += 1

    def _batches(self, group: Group) -> Iterator[pa.RecordBatch]:
        """The blocks of one row group. One file is open at a time."""
        if self._file is None or self._file[0] != group.file:
            if self._file is not None:
                self._file[1].close()
            self._file = (group.file, open_file(self.files[group.file]))
        batches: Iterator[pa.RecordBatch] = self._file[1].iter_batches(
            group.block, row_groups=[group.index], columns=[self.column], use_threads=False
        )
        return batches

    def _keep(self, key: tuple[int, int], batch: pa.RecordBatch | None) -> None:
        group = self.groups[key[0]]
        if batch is None or batch.num_rows != min(group.block, group.rows - key[1] * group.block):
            raise pa.ArrowInvalid("a row group is shorter than the footer says")
        column = encoded(batch)
        self._blocks[key] = Block(column.to_pylist(), column.nbytes)  # Arrow's allocator would hold on to far more
        self._held += column.nbytes
        while len(self._blocks) > 2 and not (self._jumps and self._held <= CACHE):
            self._held -= self._blocks.popitem(last=False)[1].size
