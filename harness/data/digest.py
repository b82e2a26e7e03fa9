"""Digests of content, computed once per process.

Up to 8 GiB in total, the digest is `sha256:<hex>` over every byte of the files. Beyond that reading everything would
take longer than it is worth: `sha256-footer:<hex>` covers names, sizes and, for Parquet, the footers, which hold the
row counts, the offsets and the statistics of every column.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.reason import reason
from harness.errors import UserError

WHOLE = 8 * 2**30
"""Most bytes that are read for a digest."""

_PIECE = 1 << 20
_KNOWN: dict[str, str] = {}


def digest_files(files: Sequence[tuple[str, Path]], outline: Callable[[Path], bytes]) -> str:
    """The digest of files in the given order, each with a label that counts as content.

    outline: what stands for the content of one file where the whole is too big.

    Raises:
        UserError: a file cannot be read.
    """
    fingerprint = hashlib.sha256()
    total = 0
    for label, path in files:
        with _reading(path):
            stat = path.stat()
        total += stat.st_size
        fingerprint.update(_frame(label, str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    key = fingerprint.hexdigest()
    if key not in _KNOWN:
        _KNOWN[key] = _outlines(files, outline) if total > WHOLE else _contents(files)
    return _KNOWN[key]


def digest_arrays(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """The digest of pixels and labels with their shapes, in C order."""
    state = hashlib.sha256(_frame("images", *images.shape))
    rows = max(1, _PIECE // max(1, images[:1].size))
    for start in range(0, len(images), rows):
        state.update(images[start : start + rows].tobytes())
    state.update(_frame("labels", *labels.shape))
    state.update(labels.astype("<i8").tobytes())
    return f"sha256:{state.hexdigest()}"


def derive(digest: str, part: str) -> str:
    """The digest of a part that is cut out of a source with this digest."""
    kind, _, _ = digest.partition(":")
    return f"{kind}:{hashlib.sha256(_frame(digest, part)).hexdigest()}"


def _contents(files: Iterable[tuple[str, Path]]) -> str:
    state = hashlib.sha256()
    for label, path in files:
        with _reading(path), path.open("rb") as file:
            state.update(_frame(label, path.stat().st_size))
            while piece := file.read(_PIECE):
                state.update(piece)
    return f"sha256:{state.hexdigest()}"


def _outlines(files: Iterable[tuple[str, Path]], outline: Callable[[Path], bytes]) -> str:
    state = hashlib.sha256()
    for label, path in files:
        with _reading(path):
            state.update(_frame(label, path.name, path.stat().st_size))
            state.update(outline(path))
    return f"sha256-footer:{state.hexdigest()}"


def _frame(*values: str | int) -> bytes:
    """Values with their borders, so that no two lists give the same bytes."""
    return b"".join(f"{len(text)}:{text}".encode() for text in map(str, values)) + b";"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise UserError(f"{path} cannot be read ({reason(cause)}); check the file") from None
