"""Compute digests of content, once per process.

Up to 8 GiB in total, the digest is `sha256:<hex>` over every byte of the files. Beyond that reading everything would
take longer than it is worth: `sha256-footer:<hex>` covers names, sizes and, for Parquet, the footers, which hold the
row counts, the offsets and the statistics of every column.

The same files give other images when they are resized to another length, and other labels from another column. So the
digest of a split is derived from the digest of its files and from how they are read. A source without such options
adds nothing. Whether images are turned upright counts only where one is stored turned, so that all other sets keep the
digest that they had before images were turned.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.data.decoding import turned
from gauntlet.errors import UserError, reason
from gauntlet.system.file_reader import check_regular

WHOLE = 8 * 2**30
"""Most bytes that are read for a digest."""

Reading = Mapping[str, str | int | None]
"""How stored rows become images and labels: options by name."""

_PIECE = 1 << 20
_KNOWN: dict[str, str] = {}
_TURNED: dict[str, bool] = {}


def digest_files(files: Iterable[tuple[str, Path]], outline: Callable[[Path], bytes]) -> str:
    """The digest of files in the given order, each with a label that counts as content.

    files: gone through twice.
    outline: what stands for the content of one file where the whole is too big.

    Raises:
        UserError: a file cannot be read.
    """
    key, total = _fingerprint(files)
    if key not in _KNOWN:
        _KNOWN[key] = _outlines(files, outline) if total > WHOLE else _contents(files)
    return _KNOWN[key]


def any_turned(files: Iterable[tuple[str, Path]], encoded: Callable[[Path], Iterable[bytes]]) -> bool:
    """Return whether any image in the files is stored turned; False where the files are too big to be read whole.

    Args:
        files: gone through twice, as in `digest_files`.
        encoded: gives the encoded images of one file.

    Raises:
        UserError: a file cannot be read.
    """
    key, total = _fingerprint(files)
    if key not in _TURNED:
        _TURNED[key] = total <= WHOLE and any(turned(image) for _, path in files for image in encoded(path))
    return _TURNED[key]


def digest_arrays(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """The digest of pixels and labels with their shapes, in C order."""
    rows = max(1, _PIECE // max(1, images[:1].size))
    pieces = (images[start : start + rows] for start in range(0, len(images), rows))
    return digest_pieces(images.shape, pieces, labels)


def digest_pieces(shape: tuple[int, ...], pieces: Iterable[NDArray[Any]], labels: NDArray[np.int64]) -> str:
    """The digest of pixels of this shape that come in pieces, one after the other, and of their labels.

    The labels are read last: they may be filled in while the pieces come.
    """
    state = hashlib.sha256(_frame("images", *shape))
    for piece in pieces:
        state.update(piece.tobytes())
    state.update(_frame("labels", *labels.shape))
    state.update(labels.astype("<i8").tobytes())
    return f"sha256:{state.hexdigest()}"


def derive(digest: str, word: str) -> str:
    """The digest of what `word` makes of content with this digest: the name of a part, or how it is read."""
    kind, _, _ = digest.partition(":")
    return f"{kind}:{hashlib.sha256(_frame(digest, word)).hexdigest()}"


def canonical(reading: Reading) -> str:
    """The options that are set as JSON, sorted by name and without spaces; the empty text where none is.

    An option that is null is as if it were not there, so that a new one leaves the digests of old runs alone.
    """
    known = {name: value for name, value in reading.items() if value is not None}
    return json.dumps(known, sort_keys=True, separators=(",", ":")) if known else ""


def _fingerprint(files: Iterable[tuple[str, Path]]) -> tuple[str, int]:
    """Return a hash of the names, sizes and times of files, and their bytes together."""
    fingerprint = hashlib.sha256()
    total = 0
    for label, path in files:
        with _reading(path):
            check_regular(path, None, "check dataset.path")
            stat = path.stat()
        total += stat.st_size
        fingerprint.update(_frame(label, str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    return fingerprint.hexdigest(), total


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
