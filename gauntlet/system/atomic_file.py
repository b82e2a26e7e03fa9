"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gauntlet.errors import UserError, reason
from gauntlet.system.leftovers import temporary


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all. What lies in /dev, such as /dev/stdout, is written to and
    never replaced."""
    with _writing(path):
        if Path("/dev") in path.absolute().parents and path.exists():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = temporary(path)
        try:
            _write_synced(scratch, data)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def move_synced(source: Path, target: Path) -> None:
    """Move a finished file or folder to another place of the same file system, with its content on the disk before.

    Raises:
        OSError: it cannot be moved.
    """
    for path in [source, *source.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    source.replace(target)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f"no space left for {path}; free some, then run the same command to go on") from None
        raise UserError(f"cannot write {path} ({reason(cause)}); choose another place with runs_dir=DIR") from None
