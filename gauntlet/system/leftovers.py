"""Temporary files whose writer was killed: the next process that works in the folder removes them. Imports no torch."""

import hashlib
import os
import re
import socket
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

BOUND = 3600.0
"""Seconds without a write after which a temporary file of another machine, or of version 0.1.0, has no writer."""

_TEMPORARY = re.compile(r"\..+?\.(?:([0-9a-f]{8})\.)?(\d+)-[0-9a-f]{8}\.tmp")


def temporary(path: Path) -> Path:
    """Return a name beside a file for what is to replace it, which tells who writes it."""
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_leftovers(folder: Path, now: float) -> None:
    """Remove the temporary files of dead writers in a folder and one level below.

    A writer is dead if it ran on this machine and its process is gone, or if the file has not changed for `BOUND`.

    Args:
        now: the time by the clock that stamps the files of the folder.
    """
    for place in (folder, *(below for below in folder.glob("*/") if not below.is_symlink())):
        for path in place.glob(".*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is None:
                continue
            with suppress(OSError):  # another process was faster, or the folder only reads
                gone = match[1] == _machine() and not _alive(int(match[2]))
                if gone or now - path.lstat().st_mtime > BOUND:
                    path.unlink()


@cache
def _machine() -> str:
    """Return eight signs that two processes share if each can ask whether the other lives."""
    about = [socket.gethostname()]
    with suppress(OSError):  # neither is there beyond Linux
        about.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        about.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True
