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


class Faults:
    """Counts writes, syncs, renames, links and removals of files below a folder, and makes a fault at one of them.

    Args:
        folder: what lies elsewhere goes undisturbed.
        at: number of the operation, from 0; None: of none.
        kill: whether the process ends right after it; else it fails as on a full disk.
    """

    def __init__(self, folder, at=None, kill=False):
        self.folder, self.at, self.kill, self.count = folder, at, kill, 0

    def install(self):
        for owner, name in [(Path, "replace"), (Path, "rename"), (Path, "unlink"), (os, "link")]:
            setattr(owner, name, self._faulty(getattr(owner, name)))
        opened, synced = Path.open, os.fsync

        def opening(path, mode="r", *more, **named):
            file = opened(path, mode, *more, **named)
            if "w" in mode and path.is_relative_to(self.folder):
                self._step(lambda: file.close())
            return file

        Path.open = opening
        os.fsync = lambda descriptor: self._step(None) or synced(descriptor)

    def _faulty(self, operation):
        def done(path, *more, **named):
            if not Path(path).is_relative_to(self.folder) or not Path(path).exists():
                return operation(path, *more, **named)
            if not self.kill:
                self._step(None)
                return operation(path, *more, **named)
            result = operation(path, *more, **named)
            self._step(None)
            return result

        return done

    def _step(self, before):
        number, self.count = self.count, self.count + 1
        if number != self.at:
            return
        if self.kill:
            os._exit(KILLED)
        if before is not None:
            before()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def survives(work, folder, every=1):
    """Make a fault at every so many operations, each with a kill and with a full disk; return how many were made.

    After each the same work is done again undisturbed, and must give what it gives without a fault.

    Args:
        work: takes the runs folder; called in forks alone.
    """
    torch.set_num_threads(1)
    status, count = forked(work, folder / "whole")
    assert status == 0
    assert count > 10
    whole, made = content(folder / "whole" / "runs"), 0
    for kill in (True, False):
        for at in range(0, count, every):
            place = folder / f"{'kill' if kill else 'full'}-{at}"
            status, _ = forked(work, place, Faults(place / "runs", at, kill))
            assert status in ((KILLED, 0) if kill else (REFUSED, 0)), (kill, at, status)
            status, _ = forked(work, place)
            assert status == 0, (kill, at)
            found = content(place / "runs")
            other = [name for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)]
            assert not other, (kill, at, other)
            shutil.rmtree(place)
            made += 1
    return made
