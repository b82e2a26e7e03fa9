"""Read files that may be damaged, foreign or hostile: regular files alone, of bounded size. Imports no torch."""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError, printable, reason

MOST_BYTES = 16 << 20
"""Bytes of a text or JSON file, at most, unless its reader says otherwise."""

MOST_DEPTH = 64
"""Levels of nested JSON; a configuration has about ten."""

_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


def check_regular(path: Path, most: int | None = MOST_BYTES, hint: str = "give a regular file") -> None:
    """Refuse what is no regular file or too large, before a library opens it: reading a pipe or a device never ends.

    Args:
        most: bytes that it may have; None: any number, where its reader holds little of it at once.
        hint: the remedy, the end of the line that the user reads.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is something else, is larger, or cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as cause:
        raise UserError(f"{printable(path)} cannot be read ({reason(cause)}); {hint}") from None
    _check(found, path, most, hint)


def read_regular(path: Path, most: int = MOST_BYTES, hint: str = "give a regular file") -> bytes:
    """Return the content of a regular file; arguments and exceptions are those of `check_regular`."""
    check_regular(path, most, hint)
    try:
        # Opening never waits for the other end of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            _check(found, path, most, hint)
            return file.read(found.st_size)  # room for as many bytes as are asked for is taken at once
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise UserError(f"{printable(path)} cannot be read ({reason(cause)}); {hint}") from None


def read_tail(path: Path, size: int) -> bytes:
    """Return the last bytes of a regular file of any size; exceptions are those of `check_regular`."""
    check_regular(path, None)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            _check(found, path, None, "give a regular file")
            file.seek(max(found.st_size - size, 0))
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise UserError(f"{printable(path)} cannot be read ({reason(cause)}); give a regular file") from None


def read_json(path: Path, most: int = MOST_BYTES, hint: str = "give a file of plain JSON") -> Any:
    """Return the content of a JSON file, every number finite and within 64 bits, every text valid Unicode.

    Bytes of a path that are no UTF-8 reach JSON as lone surrogates, which no other file can hold: they come back as the
    six characters of their escape.

    Raises:
        FileNotFoundError: it is not there.
        UserError: as `check_regular`, or it is no such JSON.
    """
    data = read_regular(path, most, hint)
    try:
        content = json.loads(data.decode(), parse_float=_finite, parse_int=_whole, parse_constant=_constant)
        return _plain(content, MOST_DEPTH)
    except RecursionError:
        raise UserError(f"{printable(path)} is damaged: it is nested too deeply; {hint}") from None
    except ValueError as cause:
        raise UserError(f"{printable(path)} is damaged: {reason(cause)[:200]}; {hint}") from None


def read_mapping(path: Path, hint: str) -> dict[str, Any]:
    """Return the content of a JSON file that the user names: a mapping that is not empty.

    Raises:
        UserError: as `read_json`, or it is missing, or no such mapping.
    """
    try:
        found = read_json(path, hint=hint)
    except FileNotFoundError:
        raise UserError(f"{printable(path)}: no such file; {hint}") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{printable(path)} holds no mapping; {hint}")
    return found


def _check(found: os.stat_result, path: Path, most: int | None, hint: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{printable(path)} is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, not a regular file; {hint}"
        )
    if most is not None and found.st_size > most:
        raise UserError(f"{printable(path)} has {found.st_size} bytes, more than the {most} that it may have; {hint}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _plain(value: Any, depth: int) -> Any:
    if depth < 0:
        raise RecursionError
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_plain(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {_plain(key, 0): _plain(each, depth - 1) for key, each in value.items()}
    return value
