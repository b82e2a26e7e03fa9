"""Where an exception comes from: code of the user's, which needs a line, or ours, which needs a traceback."""

import sysconfig
import traceback
from pathlib import Path

import gauntlet

_PACKAGE = Path(gauntlet.__file__).parent
_LINKED = (path.resolve() for path in _PACKAGE.iterdir() if path.is_symlink())
_INSTALLED = (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
KNOWN = (_PACKAGE.resolve(), *_LINKED, *(path.resolve() for path in _INSTALLED))
"""Folders of our code and of installed packages."""


def foreign_frame(cause: BaseException) -> str:
    """Return "FILE:LINE (FUNCTION)" of the innermost code that is neither ours nor installed; "" where there is none.

    The program that was started counts as ours.
    """
    for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
        name = frame.f_code.co_filename
        if name.startswith("<") or frame.f_globals.get("__name__") == "__main__":
            continue
        path = Path(name).resolve()
        if not any(path.is_relative_to(folder) for folder in KNOWN):
            return f"{path.name}:{line} ({frame.f_code.co_name})"
    return ""
