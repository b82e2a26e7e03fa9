"""One process at a time: a lock that a dead process cannot hold."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from harness.cells import PATIENCE
from harness.environment import whoami
from harness.errors import UserError
from harness.records import write_atomically

log = logging.getLogger(__name__)


@contextmanager
def sole_owner(folder: Path, name: str, way_out: str | None, aloud: bool = True) -> Iterator[None]:
    """Hold `folder/name.lock`, which the operating system takes back when this process ends, however it ends.

    Args:
        folder: made if it is not there.
        name: of the lock; `name.owner` says who holds it.
        way_out: what to do where another process holds it, the end of the line that the user reads; None: wait for it.

        aloud: whether to warn the user that it waits.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    owner = folder / f"{name}.owner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            who = owner.read_text().strip() if owner.exists() else "another process"
            if way_out is not None:
                raise UserError(f"{who} is working on {folder}{way_out}") from None
            log.log(logging.WARNING if aloud else logging.DEBUG, "waiting for %s, which works on %s", who, folder)
            lock.acquire()
    except OSError as cause:
        raise UserError(f"cannot write {folder} ({cause.strerror}); choose another place with runs_dir=DIR") from None
    try:
        write_atomically(owner, f"{whoami()}\n".encode())
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
