"""List runs: `python -m harness.status [runs]`. What is done, running, failed or partial, from the evidence alone.

Cells of sweeps that have left no run yet, because they wait or failed before they made one, are listed too.
"""

import argparse
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from harness.cells import Cell, Standing, find_cells
from harness.errors import UserError
from harness.records import Manifest, RunFolder, find_runs

WINDOW = 20
"""The rate is that of so many newest chunks."""


@dataclass(frozen=True)
class Line:
    """One run, or a cell without one. state: done, running (a process holds its lock), failed (rows with errors, or
    bad input), waiting (a cell that no process has taken up), partial, or damaged; access: what its attacker was
    given; command: what finishes it."""

    state: str
    present: int
    chunks: int
    path: Path
    remark: str
    access: str = "gradient"
    command: str = ""


def line(run: RunFolder) -> Line:
    """The state of one run."""
    try:
        manifest = run.manifest()
    except UserError as cause:
        return Line("damaged", 0, 0, run.path, str(cause))
    present, chunks, access = len(run.present()), manifest["chunks"], manifest.get("access", "gradient")
    about = Line("done", present, chunks, run.path, "", access, whole(manifest["command"]))
    if manifest["status"] == "done" and present == chunks:
        return about
    if _locked(run):
        return replace(about, state="running", remark=_pace(run, manifest))
    if manifest["status"] == "failed":
        first = (manifest.get("failures") or ["no reason recorded"])[0]
        return replace(about, state="failed", remark=f"{first}; again: {about.command}")
    return replace(about, state="partial", remark=f"go on: {about.command}")


def whole(command: str) -> str:
    """The command of one shard turned into that of all shards; another one as it is."""
    words = shlex.split(command)
    options = dict(word.partition("=")[::2] for word in words)
    shards = options.get("runtime.shards", "1")
    if shards == "1":
        return command
    kept = [word for word in words if not word.startswith("runtime.shard=")]
    return shlex.join([*kept[:2], "-m", *kept[2:], f"runtime.shard=range({shards})"])


def lines(root: Path) -> list[Line]:
    """The runs below `root`, then the cells of its sweeps that a run does not stand for."""
    found = [line(run) for run in find_runs(root)]
    runs: dict[str, int] = {one.command: place for place, one in enumerate(found)}
    for cell in find_cells(root):
        standing, command = cell.standing(), whole(cell.command)
        if command not in runs:
            if standing.state != "done":
                found.append(_without_run(cell, standing))
            continue
        at = found[runs[command]]
        if standing.said and at.state in ("partial", "failed"):
            found[runs[command]] = replace(at, remark=f"{at.remark}\n         {standing.said}")
    return found


def _without_run(cell: Cell, standing: Standing) -> Line:
    what = f"{cell.command}\n         {standing.said}" if standing.said else cell.command
    if standing.state == "failed":
        what += f"\n         forget it: rm {cell.path}"
    return Line(standing.state, 0, 0, Path(), what)


def _pace(run: RunFolder, manifest: Manifest) -> str:
    """Samples per second and the time left, by when its newest chunks were written; "": too few are."""
    written = sorted(run.part_path(chunk).stat().st_mtime for chunk in run.present())
    newest = written[-WINDOW:]
    if len(newest) < 2 or newest[-1] <= newest[0]:
        return ""
    chunks = (len(newest) - 1) / (newest[-1] - newest[0])
    left = (manifest["chunks"] - len(written)) / chunks
    return f"{chunks * manifest['chunk']:.3g} samples/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def _locked(run: RunFolder) -> bool:
    for path in run.path.glob("run-*.lock"):
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
    return False


def _shown(found: list[Line]) -> str:
    out = []
    for entry in found:
        access = f" (access={entry.access})" if entry.access != "gradient" else ""
        if not entry.chunks and entry.state != "damaged":
            out.append(f"{entry.state:<8} {'-':>5}/{'-':<5} {entry.remark}")
            continue
        remark = f"\n         {entry.remark}" if entry.remark else ""
        out.append(f"{entry.state:<8} {entry.present:>5}/{entry.chunks:<5} {entry.path}{access}{remark}")
    count = Counter(entry.state for entry in found)
    states = ("done", "running", "waiting", "partial", "failed", "damaged")
    total = ", ".join(f"{count[state]} {state}" for state in states if count[state])
    return "\n".join([*out, total or "no runs", ""])


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run; 1 where one is failed or damaged."""
    parser = argparse.ArgumentParser(prog="python -m harness.status", description="List runs and what is left to do.")
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument(
        "--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help="again and again, until nothing runs"
    )
    given = parser.parse_args(arguments)
    if given.watch is not None and not given.watch > 0:
        parser.error("--watch takes a positive number of seconds")
    if not given.runs.is_dir():
        sys.stderr.write(
            f"error: {given.runs} is not a folder; make a run first, for example: python run.py attack=pgd\n"
        )
        return 1
    try:
        while True:
            found = lines(given.runs)
            clear = "\033[H\033[J" if given.watch and sys.stdout.isatty() else ""
            sys.stdout.write(f"{clear}{_shown(found)}")
            sys.stdout.flush()
            if given.watch is None or not any(entry.state in ("running", "waiting") for entry in found):
                break
            time.sleep(given.watch)
    except KeyboardInterrupt:
        return 130
    return int(any(entry.state in ("failed", "damaged") for entry in found))


if __name__ == "__main__":
    sys.exit(main())
