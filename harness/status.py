"""List runs: `python -m harness.status [runs]`. What is done, running, failed or partial, from the evidence alone."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import filelock

from harness.errors import UserError
from harness.records import RunFolder, find_runs


@dataclass(frozen=True)
class Line:
    """One run. state: done, running (a process holds its lock), failed (rows with errors), partial, or damaged; access:
    what its attacker was given."""

    state: str
    present: int
    chunks: int
    path: Path
    remark: str
    access: str = "gradient"


def line(run: RunFolder) -> Line:
    """The state of one run."""
    try:
        manifest = run.manifest()
    except UserError as cause:
        return Line("damaged", 0, 0, run.path, str(cause))
    present, chunks, access = len(run.present()), manifest["chunks"], manifest.get("access", "gradient")
    if manifest["status"] == "done" and present == chunks:
        return Line("done", present, chunks, run.path, "", access)
    if _locked(run):
        return Line("running", present, chunks, run.path, "", access)
    if manifest["status"] == "failed":
        first = (manifest.get("failures") or ["no reason recorded"])[0]
        return Line("failed", present, chunks, run.path, f"{first}; again: {manifest['command']}", access)
    return Line("partial", present, chunks, run.path, f"go on: {manifest['command']}", access)


def _locked(run: RunFolder) -> bool:
    for path in run.path.glob("run-*.lock"):
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
    return False


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run; 1 where one is failed or damaged."""
    parser = argparse.ArgumentParser(prog="python -m harness.status", description="List runs and what is left to do.")
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    root = parser.parse_args(arguments).runs
    if not root.is_dir():
        sys.stderr.write(f"error: {root} is not a folder; make a run first, for example: python run.py attack=pgd\n")
        return 1
    found = [line(run) for run in find_runs(root)]
    for entry in found:
        access = f" (access={entry.access})" if entry.access != "gradient" else ""
        remark = f"\n         {entry.remark}" if entry.remark else ""
        sys.stdout.write(f"{entry.state:<8} {entry.present:>5}/{entry.chunks:<5} {entry.path}{access}{remark}\n")
    count = {
        state: sum(entry.state == state for entry in found)
        for state in ("done", "running", "partial", "failed", "damaged")
    }
    sys.stdout.write(
        ", ".join(f"{number} {state}" for state, number in count.items() if number) + "\n" if found else "no runs\n"
    )
    return 1 if count["failed"] or count["damaged"] else 0


if __name__ == "__main__":
    sys.exit(main())
