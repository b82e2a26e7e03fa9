"""Bringing files into a data folder so that they are there whole or not at all."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gauntlet.system.atomic_file import move_synced

SILENCE = 10.0
"""Seconds without an answer after which a server counts as unreachable."""


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """An empty folder inside `root`; what it holds at the end moves to the same place below `root`.

    A process that dies before leaves only the staging folder, which the next one empties. Other processes wait.

    Raises:
        OSError: `root` cannot be written, or the disk is full.
    """
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".incoming.lock"):
        stage = root / ".incoming"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        try:
            yield stage
            _settle(stage, root)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def impatient() -> Iterator[None]:
    """Connections opened inside give up after `SILENCE` seconds without a byte."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _settle(stage: Path, root: Path) -> None:
    for entry in sorted(stage.iterdir()):
        target = root / entry.name
        if entry.is_dir() and target.is_dir():
            _settle(entry, target)
        else:
            move_synced(entry, target)
