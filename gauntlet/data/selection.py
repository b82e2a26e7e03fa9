"""Which images of a split are used: a fixed order by hash, a slice held out for validation, `limit` and `indices`."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import UserError, reason

Ids = NDArray[np.int64]

log = logging.getLogger(__name__)

HELD_OUT = 10
"""One training image in this many is held out where a set has no validation part of its own."""


KNOWN = {
    "2f1fd0aa050d2393d0d1ff5aa3da5cf25831254f1cb59266e3162a1e2c61adc8": "the 5,000 ImageNet images of RobustBench",
}
"""SHA-256 over the sorted names of a published selection, one a line -> what it is."""


def hash_order(count: int) -> Ids:
    """The numbers 0 to count-1, sorted by the SHA-256 of their decimal text: a shuffle that no library can change."""
    hashes = bytearray()
    for number in range(count):
        hashes += hashlib.sha256(str(number).encode()).digest()
    columns = np.frombuffer(hashes, ">u8").reshape(count, 4).T.astype(np.uint64)
    return np.lexsort(columns[::-1]).astype(np.int64)


def hold_out(count: int) -> tuple[Ids, Ids]:
    """Rows for training and rows for validation (the last tenth in hash order), each ascending."""
    order = hash_order(count)
    cut = count - max(1, count // HELD_OUT)
    return np.sort(order[:cut]), np.sort(order[cut:])


def select(ids: Ids, limit: int | None, indices: str | None, name: Callable[[int], str] = lambda _: "") -> Ids:
    """The images that `indices` (a file) lists, in the order of the split, and of these the first `limit`.

    Args:
        name: gives the name of an id, a path as a rule; empty where it has none.

    Raises:
        UserError: the file is missing, empty or malformed, an id is unknown or repeated, or `limit` is too high.
    """
    chosen = ids
    if indices is not None:
        listed = _listed(Path(indices).expanduser(), ids, name)
        chosen = ids[np.isin(ids, listed)]
    if limit is None:
        return chosen
    if not 0 < limit <= len(chosen):
        raise UserError(f"dataset.limit={limit}, but there are {len(chosen)} images; give 1 to {len(chosen)}, or null")
    return chosen[:limit]


def selection_name(chosen: Ids, total: int) -> str:
    """`all` where nothing is left out, else twelve hex digits of the SHA-256 over the sorted ids."""
    if len(chosen) == total:
        return "all"
    return hashlib.sha256(np.sort(chosen).astype("<i8").tobytes()).hexdigest()[:12]


def _listed(path: Path, ids: Ids, name: Callable[[int], str]) -> Ids:
    if names := _names(path):
        return _ids_of(path, names, ids, name)
    known = set(ids.tolist())
    seen: dict[int, str] = {}
    for place, number in _numbers(path):
        if number not in known:
            raise UserError(
                f"{path}, {place}: there is no id {number} in this split; ids go from {ids.min()} to {ids.max()}"
            )
        if number in seen:
            raise UserError(f"{path}, {place}: id {number} stands at {seen[number]} already; list each id once")
        seen[number] = place
    if not seen:
        raise UserError(f"{path} lists no ids; write one id or name a line, or leave dataset.indices out")
    return np.fromiter(seen, dtype=np.int64)


def _numbers(path: Path) -> Iterable[tuple[str, int]]:
    """Return each id with its place in the file."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"dataset.indices={path} is no regular file; give a text file with one id a line")
        return list(_array_numbers(path) if path.suffix == ".npy" else _text_numbers(path))
    except FileNotFoundError:
        raise UserError(f"dataset.indices={path}: no such file; give a text file with one id a line") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; give a text file with one id a line, or a .npy file") from None
    except OSError as cause:
        raise UserError(f"{path} cannot be read ({reason(cause)}); check dataset.indices") from None


def _names(path: Path) -> dict[str, str]:
    """Return the names in a file of names, each with its line; nothing where the first line holds an id."""
    if path.suffix == ".npy" or not path.is_file():
        return {}
    try:
        lines = dict(_lines(path))
    except (OSError, UnicodeDecodeError):
        return {}
    if not lines or re.fullmatch(r"-?[0-9]+", next(iter(lines.values()))):
        return {}
    found: dict[str, str] = {}
    for line, word in lines.items():
        if word in found:
            raise UserError(f"{path}, {line}: {word[:80]} stands at {found[word]} already; list each name once")
        found[word] = line
    return found


def _ids_of(path: Path, names: dict[str, str], ids: Ids, name: Callable[[int], str]) -> Ids:
    """Return the id of each name: either may have more folders before what both share.

    Raises:
        UserError: a name is of no image, or of several.
    """
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    if digest in KNOWN:
        log.warning("%s lists %s", path, KNOWN[digest])
    last: dict[str, list[list[str]]] = {}
    for word in names:
        pieces = word.removeprefix("./").split("/")
        last.setdefault(pieces[-1], []).append(pieces)
    found: dict[str, int] = {}
    nameless = True
    for number in ids.tolist():
        mine = name(number).split("/")
        nameless = nameless and mine == [""]
        for pieces in last.get(mine[-1], ()):
            shared = min(len(mine), len(pieces))
            if mine[-shared:] != pieces[-shared:]:
                continue
            word = "/".join(pieces)
            if word in found:
                both = f"{name(found[word])} and {name(number)}"
                raise UserError(f"{path}: {word[:80]} is the name of {both}; write it with its folder")
            found[word] = number
    if nameless:
        word, line = next(iter(names.items()))
        raise UserError(f"{path}, {line}: {word[:40]!r} is not an id, and these images have no names; write ids")
    for word, line in names.items():
        if word.removeprefix("./") not in found:
            raise UserError(
                f"{path}, {line}: there is no image {word[:80]} in this split; its names are like {name(int(ids[0]))}"
            )
    return np.fromiter(found.values(), dtype=np.int64)


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    """Yield the place and the text of each line that says something."""
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if word := text.partition("#")[0].strip():
            yield f"line {line}", word


def _text_numbers(path: Path) -> Iterable[tuple[str, int]]:
    for line, word in _lines(path):
        if not re.fullmatch(r"-?[0-9]{1,18}", word):
            raise UserError(f"{path}, {line}: {word[:40]!r} is not an id; write one whole number a line")
        yield line, int(word)


def _array_numbers(path: Path) -> Iterable[tuple[str, int]]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as cause:
        raise UserError(f"{path} is not a NumPy array file ({reason(cause)}); write it anew") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{path} does not hold a one-dimensional array of whole numbers; save one of int64")
    for position, number in enumerate(array.tolist()):
        yield f"entry {position}", number
