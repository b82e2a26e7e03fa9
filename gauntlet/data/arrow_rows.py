"""Random access to the encoded images of Arrow files, as the Hub's library saves them.

A file is mapped into memory, so that a batch takes none until its images are read. Images that are not in the file but
beside it (a path without bytes) are read from there, and belong to the digest.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gauntlet.data.arrow_columns import (
    bytes_column,
    check_classes,
    check_label_column,
    class_numbers,
    labels_digest,
    readable,
    renumbers,
)
from gauntlet.data.class_map import ClassMap
from gauntlet.data.dataset import Spread
from gauntlet.data.decoding import Form, Pixels, decode, in_order
from gauntlet.data.digest import Reading, any_turned, digest_files
from gauntlet.data.parquet_file import Stamp, reading, stamp
from gauntlet.data.selection import Ids
from gauntlet.errors import UserError, reason
from gauntlet.system.file_reader import check_regular


class ArrowBatch(NamedTuple):
    """Where a batch of rows is: in which file, and at which byte (a stream) or as which batch (a file)."""

    file: int
    at: int
    rows: int


@dataclass(eq=False)
class ArrowRows:
    """The rows of some Arrow files, one after the other."""

    files: list[Path]
    stamps: list[Stamp]
    batches: list[ArrowBatch]
    labels: NDArray[np.int64]
    column: str
    label: str
    form: Form
    class_map: str | None
    levels: int = field(default=255, init=False)
    _starts: Ids = field(init=False)  # first row of each batch, over all files
    _held: tuple[int, pa.RecordBatch] | None = field(default=None, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(batch.rows for batch in self.batches)])[:-1]

    @classmethod
    def open(
        cls, files: list[Path], image: str, label: str, form: Form, classes: int, mapped: ClassMap | None
    ) -> "ArrowRows":
        """Read the labels, and where the batches are.

        Raises:
            UserError: a file is missing, cut short or no Arrow file, or a column is missing or of another type.
        """
        stamps, batches, labels = [], [], []
        column, numbered = image, False
        for number, path in enumerate(files):
            with reading(path, "Arrow"):
                stamps.append(stamp(path))
                opened = _Opened.of(path)
                schema = readable(opened.schema)
                column = bytes_column(schema, image, path)
                check_label_column(schema, label, path)
                check_classes(schema, label, classes, mapped, path)
                columns = []
                for at, batch in opened.all():
                    _images(batch, image).validate(full=True)  # offsets that lead outside would end the process
                    batches.append(ArrowBatch(number, at, batch.num_rows))
                    batch.column(label).validate(full=True)
                    columns.append(batch.column(label))
                kind = schema.field(label).type
                labels.append(class_numbers(pa.chunked_array(columns, kind), label, path, schema, mapped))
                numbered = numbered or renumbers(schema, label, mapped)
        numbers = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        counts = labels_digest(numbers) if numbered else None
        return cls(files, stamps, batches, numbers, column, label, form, counts)

    def images(self, rows: Ids, spread: Spread = map) -> Pixels:
        """Return uint8 [B, H, W, C], in the order of `rows`."""
        with self._lock:
            encoded = [(row, self._encoded(row)) for row in np.sort(rows).tolist()]
        return in_order(rows, encoded, self._decoded, self.form, spread)

    def where(self, row: int) -> str:
        """Return the file and the row in it, for messages."""
        number = self._batch(row)
        mine = self.batches[number].file
        first = next(int(self._starts[n]) for n, batch in enumerate(self.batches) if batch.file == mine)
        return f"{self.files[mine]}, row {row - first}"

    def name(self, row: int) -> str:
        """Return the path that stands beside the bytes of a row; empty where none does."""
        with self._lock:
            return self._path(*self._at(row))

    def digest(self) -> str:
        """Return the digest of the files, and of the images beside them."""
        found = digest_files(_All(self), lambda path: self._outline(path))
        for number in range(len(self.files)):
            self._check(number)
        return found

    def reading(self) -> Reading:
        """Return what decides how rows become images and labels; `exif` only where an image is stored turned."""
        exif = self.form.upright and any_turned(_All(self), self._stored)
        return {
            **self.form.reading(), "image": self.column, "label": self.label, "class_map": self.class_map,
            "exif": "upright" if exif else None,
        }  # fmt: skip

    def _batch(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _at(self, row: int) -> tuple[pa.RecordBatch, int]:
        """Return the batch of a row, and the row's place in it."""
        number = self._batch(row)
        if self._held is None or self._held[0] != number:
            self._held = None
            self._held = number, self._read(self.batches[number])
        return self._held[1], row - int(self._starts[number])

    def _read(self, batch: ArrowBatch) -> pa.RecordBatch:
        self._check(batch.file)
        with reading(self.files[batch.file], "Arrow"):
            return _Opened.of(self.files[batch.file]).read(batch.at)  # mapped anew: what was read is let go of

    def _encoded(self, row: int) -> bytes:
        batch, place = self._at(row)
        data: bytes | None = _images(batch, self.column.removesuffix(".bytes"))[place].as_py()
        if data:
            return data
        beside = self._path(batch, place)
        if not beside:
            raise UserError(f"{self.where(row)}: {self.column} is empty; write the images into the file")
        return _read(self.files[self.batches[self._batch(row)].file].parent / beside)

    def _path(self, batch: pa.RecordBatch, place: int) -> str:
        column = batch.column(self.column.removesuffix(".bytes"))
        if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
            return ""
        path: bytes = pc.struct_field(column, "path").cast(pa.binary())[place].as_py() or b""
        return os.fsdecode(path)

    def _decoded(self, image: tuple[int, bytes]) -> Pixels:
        row, data = image
        return decode(data, self.form, self.where(row))

    def _beside(self) -> Iterator[tuple[str, Path]]:
        """Yield the path and the file of each image that is not in the Arrow files, in the order of the rows."""
        for batch in self.batches:
            found = self._read(batch)
            column = _images(found, self.column.removesuffix(".bytes"))
            if not column.null_count:
                continue
            for place in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                if path := self._path(found, place):
                    yield path, self.files[batch.file].parent / path

    def _stored(self, path: Path) -> Iterator[bytes]:
        """Yield the encoded images of one file."""
        if path not in self.files:
            yield _read(path)
            return
        number = self.files.index(path)
        for batch in (batch for batch in self.batches if batch.file == number):
            for image in _images(self._read(batch), self.column.removesuffix(".bytes")):
                if data := image.as_py():
                    yield data

    def _outline(self, path: Path) -> bytes:
        """Return the labels and the batches of a file; they stand for its content where that is too big."""
        return self.labels.tobytes() + repr(self.batches).encode() if path in self.files else b""

    def _check(self, file: int) -> None:
        """Refuse a file that is no longer the one whose labels were read."""
        path = self.files[file]
        with reading(path, "Arrow"):
            now = stamp(path)
        if now != self.stamps[file]:
            raise UserError(f"{path} was changed while it was in use; leave it as it is and run the same command again")


@dataclass(frozen=True, eq=False)
class _All:
    """Each file with its label: the Arrow files, then the images beside them."""

    rows: ArrowRows

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        yield from (("", path) for path in self.rows.files)
        yield from self.rows._beside()


@dataclass(frozen=True)
class _Opened:
    """An Arrow file of either format: a stream, as the Hub's library writes, or a file with a footer."""

    source: Any
    reader: Any
    stream: bool

    @classmethod
    def of(cls, path: Path) -> "_Opened":
        check_regular(path, None, "check dataset.path")
        source = pa.memory_map(str(path))
        try:
            return cls(source, pa.ipc.open_file(source), stream=False)
        except pa.ArrowInvalid:  # no footer
            source.seek(0)
            return cls(source, pa.ipc.open_stream(source), stream=True)

    @property
    def schema(self) -> pa.Schema:
        found: pa.Schema = self.reader.schema
        return found

    def all(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch with its place."""
        if not self.stream:
            yield from ((n, self.reader.get_batch(n)) for n in range(self.reader.num_record_batches))
            return
        while True:
            at = self.source.tell()
            try:
                batch = self.reader.read_next_batch()
            except StopIteration:
                return
            yield at, batch

    def read(self, at: int) -> pa.RecordBatch:
        """Return the batch at a place."""
        if not self.stream:
            return self.reader.get_batch(at)
        self.source.seek(at)
        return pa.ipc.read_record_batch(pa.ipc.read_message(self.source), self.schema)


def _images(batch: pa.RecordBatch, image: str) -> pa.Array:
    column = batch.column(image)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _read(path: Path) -> bytes:
    try:
        check_regular(path, None, "check dataset.path")
        return path.read_bytes()
    except OSError as cause:
        raise UserError(f"{path} cannot be read ({reason(cause)}); check dataset.path") from None


def schema_of(path: Path) -> pa.Schema:
    """Return the columns of an Arrow file, with their types."""
    with reading(path, "Arrow"):
        return readable(_Opened.of(path).schema)
