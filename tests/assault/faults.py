"""A fault at each change of a file, once each in turn: `Faults` makes it, `survives` repeats the command and compares.

Each run is a fork of this process, in which all libraries are loaded.
"""

import errno
import json
import os
import shutil
import traceback
from pathlib import Path

import pyarrow.dataset  # noqa: F401
import torch._dynamo  # which a fork would load each time
from safetensors.numpy import load_file

from gauntlet.errors import UserError
from gauntlet.evidence.sealed_part import decode_rows

REFUSED, BROKEN, KILLED = 3, 4, 9
"""Exit status after one line for the user, after any other exception, and of a process that was killed."""

KILL = 0
FAULTS = {"kill": KILL, "full": errno.ENOSPC, "failing": errno.EIO}
"""Name -> the error of an operation on a disk that is full, or that fails; KILL: the process ends right after it."""


class Faults:
    """Counts writes, syncs, renames, links and removals of files below a folder, and makes a fault at one of them.

    Args:
        folder: what lies elsewhere goes undisturbed.
        at: number of the operation, from 0; None: of none.
        error: of `FAULTS`. A write that fails has written the first half.
    """

    def __init__(self, folder, at=None, error=KILL):
        self.folder, self.at, self.error, self.count = folder, at, error, 0

    def install(self):
        for owner, name in [(Path, "replace"), (Path, "rename"), (Path, "unlink"), (os, "link")]:
            setattr(owner, name, self._faulty(getattr(owner, name)))
        opened, synced = Path.open, os.fsync

        def opening(path, mode="r", *more, **named):
            file = opened(path, mode, *more, **named)
            return _Watched(file, self) if "w" in mode and path.is_relative_to(self.folder) else file

        Path.open = opening
        os.fsync = lambda descriptor: self.step() or synced(descriptor)

    def _faulty(self, operation):
        def done(path, *more, **named):
            if not Path(path).is_relative_to(self.folder) or not Path(path).exists():
                return operation(path, *more, **named)
            if self.error != KILL:
                self.step()
                return operation(path, *more, **named)
            result = operation(path, *more, **named)
            self.step()
            return result

        return done

    def step(self, before=lambda: None):
        number, self.count = self.count, self.count + 1
        if number != self.at:
            return
        before()
        if self.error == KILL:
            os._exit(KILLED)
        raise OSError(self.error, os.strerror(self.error))


class _Watched:
    """A file open for writing, whose first write may be cut short."""

    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def write(self, data):
        self._faults.step(lambda: (self._file.write(data[: len(data) // 2]), self._file.flush()))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *cause):
        self._file.close()


def forked(work, folder, faults=None):
    """Return the exit status of the work in a fork, and how many operations it has made."""
    counted = folder / "count"
    folder.mkdir(parents=True, exist_ok=True)
    if not (pid := os.fork()):
        status = BROKEN
        try:
            faults = faults or Faults(folder / "runs")
            faults.install()
            work(folder / "runs")
            status = 0
        except UserError as cause:
            status = REFUSED if "\n" not in str(cause) else BROKEN
        except BaseException:
            traceback.print_exc()
        finally:
            counted.write_text(str(faults.count))
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, int(counted.read_text()) if counted.exists() else 0


def content(runs):
    """Return what must not depend on a fault: rows, arrays, and what a manifest says of the result."""
    found = {}
    for path in sorted(runs.rglob("*")):
        name = str(path.relative_to(runs))
        if path.suffix == ".parquet":
            found[name] = decode_rows(path.read_bytes(), "", int(path.stem.rpartition("-")[2]))[0].to_pydict()
        elif path.suffix == ".safetensors":
            found[name] = {key: (each.shape, each.tobytes()) for key, each in sorted(load_file(path).items())}
        elif path.name == "run.json":
            manifest = json.loads(path.read_text())
            found[name] = [manifest[key] for key in ("status", "config_hash", "victim", "stages", "chunks")]
        elif path.suffix in (".tmp", ".damaged", ".pt", ".state"):
            found[name] = "left over"
    return {name: repr(each) for name, each in found.items()}


def survives(work, folder, every=1, faults=tuple(FAULTS)):
    """Make a fault at every so many operations; return how many were made.

    After each the same work is done again undisturbed, and must give what it gives without a fault.

    Args:
        work: takes the runs folder; called in forks alone.
        faults: names of `FAULTS`, each at each of these operations.
    """
    torch.set_num_threads(1)
    status, count = forked(work, folder / "whole")
    assert status == 0
    assert count > 10
    whole, made = content(folder / "whole" / "runs"), 0
    for name in faults:
        for at in range(0, count, every):
            place = folder / f"{name}-{at}"
            status, _ = forked(work, place, Faults(place / "runs", at, FAULTS[name]))
            assert status in ((KILLED, 0) if name == "kill" else (REFUSED, 0)), (name, at, status)
            status, _ = forked(work, place)
            assert status == 0, (name, at)
            found = content(place / "runs")
            other = [file for file in sorted(found.keys() | whole.keys()) if found.get(file) != whole.get(file)]
            assert not other, (name, at, other)
            shutil.rmtree(place)
            made += 1
    return made
