"""The files of a part of a data set: by a folder, a file or a glob."""

import glob
from pathlib import Path

from gauntlet.errors import UserError


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
    return sorted(set(files))


def _matches(pattern: str, root: Path) -> list[str]:
    """A path that exists as it is written is not read as a glob."""
    if (root / pattern).exists():
        return [pattern]
    return glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207  a Path cannot glob an absolute pattern
