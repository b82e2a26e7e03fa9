"""The files of a part of a data set: by a folder, a file or a glob."""

import glob
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from gauntlet.errors import UserError

SHARD = re.compile(r"-([0-9]{5})-of-([0-9]{5})")
"""In the names of files that share one part."""

log = logging.getLogger(__name__)


def files_of(path: str, pattern: str, part: str, ending: str) -> list[Path]:
    """Return the files of a part in the order of their sorted paths.

    Args:
        path: a folder that the pattern is relative to; or the test part itself, as a file or a glob.
        pattern: a file, a folder or a glob.
        ending: of the files within a folder, such as `.parquet`.

    Raises:
        UserError: there is none.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        found = [root / match for match in _matches(pattern, root)]
    elif part == "test":
        found = [Path(match) for match in _matches(str(root), Path())]
    else:
        found = [root.parent / match for match in _matches(pattern, root.parent)]
    files = [file for match in found for file in (match.rglob(f"*{ending}") if match.is_dir() else [match])]
    if not files:
        key = "path" if part == "test" and not root.is_dir() else part
        place = f"dataset.path={path}" + ("" if key == "path" else f", dataset.{key}={pattern}")
        kind = "Parquet" if ending == ".parquet" else ending
        raise UserError(f"no {kind} file for the {part} part: {place}; set dataset.{key} to a file, a folder or a glob")
    if missing := missing_shard(files):
        log.warning("%s: %s", path, missing)
    return sorted(set(files))


def missing_shard(files: Sequence[Path]) -> str:
    """Return which of files called `…-00000-of-00005` are not there, in words; empty: none is missing."""
    there: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := SHARD.search(file.name):
            there.setdefault((file.name[: found.start()], int(found[2])), set()).add(int(found[1]))
    for (name, count), numbers in there.items():
        if len(numbers) < count:
            return f"{len(numbers)} of the {count} files {name}-…-of-{count:05d} are there"
    return ""


def _matches(pattern: str, root: Path) -> list[str]:
    """A path that exists as it is written is not read as a glob."""
    if (root / pattern).exists():
        return [pattern]
    return glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207  a Path cannot glob an absolute pattern
