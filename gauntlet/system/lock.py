"""One process at a time: a lock with an owner and a lease, which no dead process can hold.

    FOLDER/NAME.lock     held, by the operating system, as long as its process lives
    FOLDER/NAME.owner    who holds it and what it does; renewed every `BEAT` seconds, also while a computation runs

The system takes the lock of a process back, however it ends. What it cannot tell, the lease does: a machine is gone
while the file server keeps its locks, a process is suspended, a file system shares no locks between machines. An owner
that has not renewed its lease for `LEASE` seconds counts as dead. Should it come back there are two at work: all that
they write are whole files of equal content, so this costs time and nothing else. Imports no torch.
"""

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from gauntlet.errors import UserError, printable
from gauntlet.system import progress
from gauntlet.system.file_reader import read_regular
from gauntlet.system.leftovers import remove_leftovers, temporary

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds to wait for a lock: a process that only asks whether it is held has it for a moment."""

BEAT = 10.0
"""Seconds between two renewals of a lease."""

LEASE = 90.0
"""Seconds without renewal after which an owner is dead: less than the two minutes that Slurm waits before it starts a
job again."""


def whoami() -> str:
    """Return this process, as another one can name it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as its file says. who: "process 42 on node7"; doing: its progress in words; stamp: changes
    with every renewal; age: seconds since the last one, by the clock of the file system."""

    who: str
    doing: str
    stamp: int
    age: float

    @property
    def elsewhere(self) -> bool:
        """Return whether it runs on another machine."""
        return self.who.rpartition(" on ")[2] != socket.gethostname()


def owner_of(folder: Path, name: str) -> Owner | None:
    """Return what `folder/name.owner` says; None: there is no such file."""
    path = folder / f"{name}.owner"
    try:
        stamp, (who, doing, *_) = path.stat().st_mtime_ns, [*_text(path).splitlines(), "", ""]
    except OSError:
        return None
    return Owner(printable(who) or "another process", printable(doing), stamp, _now(folder) - stamp / 1e9)


def holder(folder: Path, name: str) -> Owner | None:
    """Return the live process that holds `folder/name.lock`; None: there is none."""
    if not (folder / f"{name}.lock").exists():
        return None
    try:
        with filelock.FileLock(folder / f"{name}.lock").acquire(timeout=0):
            owner = owner_of(folder, name)
            alive = owner is not None and owner.elsewhere  # where machines share no locks
    except filelock.Timeout:
        owner, alive = owner_of(folder, name) or Owner("another process", "", 0, 0.0), True
    except (OSError, NotImplementedError):
        owner, alive = owner_of(folder, name), True
    return owner if owner is not None and alive and owner.age <= LEASE else None


def clear_folder(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files, and owners of locks that none holds."""
    remove_leftovers(folder, _now(folder))
    for path in folder.glob("*.owner"):
        owner = owner_of(folder, path.stem)
        if owner is not None and owner.age > LEASE and holder(folder, path.stem) is None:
            with suppress(OSError):
                path.unlink()


@contextmanager
def sole_owner(folder: Path, name: str, hint: str | None, warn: bool = True, what: str | None = None) -> Iterator[None]:
    """Hold `folder/name.lock`.

    Args:
        folder: made if it is not there.
        name: of the lock.
        hint: what to do where another process holds it, the end of the line that the user reads; None: wait for it.
        warn: whether to warn the user that it waits.
        what: is worked on, for the user; None: the folder.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, name, hint, warn, what or str(folder))
        lease = _Lease(folder / f"{name}.owner")
    except OSError as cause:
        lock.release()
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way = "free some space, then run the same command" if full else "choose another place with runs_dir=DIR"
        raise UserError(f"cannot write {folder} ({cause.strerror}); {way}") from None
    try:
        yield
    finally:
        lease.end()
        lock.release()


def _acquire(lock: filelock.BaseFileLock, name: str, hint: str | None, warn: bool, what: str) -> None:
    """Wait until no live process holds the lock; it is then ours unless the system keeps it for a dead one."""
    folder, notice = Path(lock.lock_file).parent, ""
    while True:
        try:
            with progress.saying(notice) if notice else nullcontext():
                lock.acquire(timeout=BEAT if notice else PATIENCE)
            owner = _alive_elsewhere(folder, name)
            if owner is None:
                return
            lock.release()
        except (filelock.Timeout, NotImplementedError):
            owner = owner_of(folder, name) or Owner("another process", "", 0, 0.0)
            if owner.age > LEASE:
                log.warning("%s has been silent for %.0f s: taking over %s", owner.who, owner.age, what)
                return
        if hint is not None:
            raise UserError(f"{owner.who} is working on {what}{hint}")
        if not notice:
            notice = f"waiting for {owner.who}, which works on {what}"
            log.log(logging.WARNING if warn else logging.DEBUG, "%s", notice)


def _alive_elsewhere(folder: Path, name: str) -> Owner | None:
    """Return the owner on another machine that shares no locks with this one, if it renews its lease while we look."""
    first = owner_of(folder, name)
    if first is None or not first.elsewhere or first.age > LEASE:
        return None
    until = time.monotonic() + 3 * BEAT
    while time.monotonic() < until:
        time.sleep(BEAT / 10)
        now = owner_of(folder, name)
        if now is None:
            return None
        if now.stamp != first.stamp:
            return now
    return None


class _Lease:
    """Renews an owner's file until `end`."""

    def __init__(self, path: Path) -> None:
        self.path, self.who = path, whoami()
        self._over = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {path.name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        if self._mine():
            with suppress(OSError):  # it counts for nothing once the lock is released
                self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            if not self._mine():  # we were taken for dead, and another process took over
                return
            try:
                self._renew()
            except OSError:  # a full disk ends no work that needs no disk
                with suppress(OSError):
                    os.utime(self.path)

    def _mine(self) -> bool:
        try:
            return _text(self.path).splitlines()[:1] == [self.who]
        except OSError:
            return False

    def _renew(self) -> None:
        scratch = temporary(self.path)
        try:
            scratch.write_text(f"{self.who}\n{progress.describe()}\n")
            scratch.replace(self.path)
        finally:
            scratch.unlink(missing_ok=True)


def _text(path: Path) -> str:
    """Return what a small file says; nothing where it is no such file, as somebody else's may be."""
    try:
        return read_regular(path, 1 << 16).decode(errors="replace")
    except UserError:
        return ""


def _now(folder: Path) -> float:
    """Return the time by the clock that stamps the files of a folder, which another machine may keep."""
    try:
        os.utime(folder)
        return folder.stat().st_mtime
    except OSError:
        return time.time()
