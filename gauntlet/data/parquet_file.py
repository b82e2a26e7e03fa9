"""What the footer of a Parquet file tells about its images and labels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gauntlet.data.arrow_columns import check_label_column, class_numbers
from gauntlet.data.class_map import ClassMap
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
def reading(path: Path, kind: str = "Parquet") -> Iterator[None]:
    """Turns what a missing or damaged file raises into a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check dataset.path") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as cause:
        raise UserError(f"{path} is damaged or no {kind} file ({reason(cause)}); fetch or write it anew") from None


def open_file(path: Path) -> pq.ParquetFile:
    """Read through a small buffer: without one, a whole column of a row group is held at once."""
    check_regular(path, None, "check dataset.path")
    return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


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


def read_labels(file: pq.ParquetFile, label: str, path: Path, mapped: ClassMap | None) -> NDArray[np.int64]:
    """Return the class numbers of a file; see `class_numbers`.

    Raises:
        UserError: no such column, or one that holds no class numbers, lacks one, or has one beyond int64.
    """
    check_label_column(file.schema_arrow, label, path)
    column = file.read(columns=[label]).column(0)
    return class_numbers(column, label, path, file.schema_arrow, mapped)


def footer_bytes(path: Path) -> bytes:
    """The footer, with its length and the mark that end the file."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read()
