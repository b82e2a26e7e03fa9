"""What the footer of a Parquet file tells about its images and labels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gauntlet.errors import UserError, reason
from gauntlet.system.file_reader import check_regular

BLOCK = 8 << 20
"""Most bytes that are decoded at a time."""

MOST_ROWS = 1024
"""Most rows that are decoded at a time."""


Stamp = tuple[int, int, int]
"""Inode, bytes and time of the last change of a file: what tells a file that was changed or replaced."""


def stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Group:
    """One row group. first: its first row in its file; block: rows in each of its blocks but the last."""

    file: int
    index: int
    first: int
    rows: int
    block: int


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a missing or damaged file raises into a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check dataset.path") from None
    except (pa.ArrowException, OSError) as cause:
        raise UserError(f"{path} is damaged or no Parquet file ({reason(cause)}); fetch or write it anew") from None


def open_file(path: Path) -> pq.ParquetFile:
    """Read through a small buffer: without one, a whole column of a row group is held at once."""
    check_regular(path, None, "check dataset.path")
    return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def bytes_column(schema: pa.Schema, image: str, path: Path) -> str:
    names = ", ".join(schema.names)
    if image not in schema.names:
        raise UserError(f"{path} has no column {image} (it has {names}); set dataset.image to the column of the images")
    kind = schema.field(image).type
    if _is_bytes(kind):
        return image
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
        return f"{image}.bytes"
    raise UserError(f"{path}: column {image} holds {kind}, no encoded images; set dataset.image to another of {names}")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def row_groups(footer: pq.FileMetaData, file: int, column: str) -> list[Group]:
    """The row groups of one file, each with a block length that keeps a block of usual images below `BLOCK` bytes."""
    groups, first = [], 0
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        columns = (group.column(i) for i in range(group.num_columns))
        size = next(c.total_uncompressed_size for c in columns if c.path_in_schema == column)
        block = max(1, min(MOST_ROWS, group.num_rows * BLOCK // max(1, size)))
        groups.append(Group(file, index, first, group.num_rows, block))
        first += group.num_rows
    return groups


def read_labels(file: pq.ParquetFile, label: str, path: Path) -> NDArray[np.int64]:
    """Return the class numbers of a file.

    Raises:
        UserError: no such column, or one that holds no class numbers, lacks one, or has one beyond int64.
    """
    names = ", ".join(file.schema_arrow.names)
    if label not in file.schema_arrow.names:
        raise UserError(f"{path} has no column {label} (it has {names}); set dataset.label to the column of the labels")
    kind = file.schema_arrow.field(label).type
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        first = next(iter(file.read(columns=[label]).column(0).drop_null().slice(0, 1).to_pylist()), None)
        raise UserError(
            f"{path}: column {label} holds {kind}, such as {first}, not class numbers; write whole numbers from 0, "
            "such as int64"
        )
    if not pa.types.is_integer(kind):
        raise UserError(
            f"{path}: column {label} holds {kind}, not class numbers; set dataset.label to another of {names}"
        )
    column = file.read(columns=[label]).column(0)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise UserError(f"{path}, row {row}: the label is missing; write one into column {label}")
    largest = pc.max(column).as_py()
    if largest is not None and largest > np.iinfo(np.int64).max:
        row = pc.index(column, pa.scalar(largest, kind)).as_py()
        raise UserError(f"{path}, row {row}: the label in column {label} is {largest}; write class numbers from 0")
    labels: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return labels


def footer_bytes(path: Path) -> bytes:
    """The footer, with its length and the mark that end the file."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read()
