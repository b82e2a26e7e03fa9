"""List runs: `gauntlet status [runs]`. What is done, running, failed or partial, from the evidence alone.

Cells of sweeps that have left no run yet, because they wait, train or failed before they made one, are listed too.
What a process is doing, its rate and the time left stand in files beside the run: any machine that sees them can tell.
"""

import argparse
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from gauntlet.cluster.sweep_jobs import Standing, SweepJob, find_cells
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.system.lock import Owner, holder
from gauntlet.system.progress import duration

WINDOW = 20
"""The rate is that of so many newest chunks."""


@dataclass(frozen=True)
class Line:
    """One run, or a cell without one. state: done, running (a process holds its lock), failed (rows with errors, or
    bad input), waiting (a cell that no process has taken up), partial, or damaged; access: what its attacker was
    given; command: what finishes it; below: of the cells that share a run, a line each."""

    state: str
    present: int
    chunks: int
    path: Path
    remark: str
    access: str = "gradient"
    command: str = ""
    below: tuple[str, ...] = ()


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
    if owners := _at_work(run):
        pace = _pace(run, manifest)
        if list(owners) == ["run-0-of-1"]:
            return replace(about, state="running", remark=owners["run-0-of-1"].doing or pace)
        below = tuple(f"{_shard(name)}, {owner.who}: {owner.doing or 'starting'}" for name, owner in owners.items())
        return replace(about, state="running", remark=pace, below=below)
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
        found[runs[command]] = _with_cell(found[runs[command]], standing)
    return found


def _with_cell(run: Line, cell: Standing) -> Line:
    """The line of a run that no process holds, with what one of its cells tells: it may be starting, or wait."""
    if cell.state == "running" and run.state in ("partial", "waiting"):
        return replace(run, state="running", remark=cell.said or "starting")
    if cell.state == "waiting" and run.state == "partial":
        return replace(run, state="waiting")
    if cell.said and cell.state in ("partial", "failed") and run.state in ("partial", "failed"):
        return replace(run, below=(*run.below, cell.said))
    return run


def _without_run(cell: SweepJob, standing: Standing) -> Line:
    if standing.state == "running":
        return Line("running", 0, 0, Path(), f"{cell.command}: {standing.said or 'starting'}")
    forget = f"forget it: rm {cell.path}" if standing.state == "failed" else ""
    return Line(standing.state, 0, 0, Path(), cell.command, below=tuple(filter(None, (standing.said, forget))))


def _pace(run: RunFolder, manifest: Manifest) -> str:
    """Samples per second and the time left, by when its newest chunks were written; "": too few are."""
    written = sorted(run.part_path(chunk).stat().st_mtime for chunk in run.present())
    newest = written[-WINDOW:]
    if len(newest) < 2 or newest[-1] <= newest[0]:
        return ""
    chunks = (len(newest) - 1) / (newest[-1] - newest[0])
    left = (manifest["chunks"] - len(written)) / chunks
    return f"{chunks * manifest['chunk']:.3g} samples/s, {duration(left)} left"


def _at_work(run: RunFolder) -> dict[str, Owner]:
    """The shards that live processes hold, and who does."""
    names = sorted((path.stem for path in run.path.glob("run-*.lock")), key=_numbers)
    return {name: owner for name in names if (owner := holder(run.path, name))}


def _numbers(name: str) -> list[int]:
    return [int(word) for word in name.split("-") if word.isdigit()]


def _shard(name: str) -> str:
    """The name of a shard's lock in words."""
    return name.replace("run-", "shard ").replace("-of-", " of ")


def _shown(found: list[Line]) -> str:
    out = []
    for entry in found:
        access = f" (access={entry.access})" if entry.access != "gradient" else ""
        if not entry.chunks and entry.state != "damaged":
            out.append(f"{entry.state:<8} {'-':>5}/{'-':<5} {entry.remark}")
        else:
            remark = f"  {entry.remark}" if entry.state == "running" else f"\n         {entry.remark}"
            shown = remark if entry.remark else ""
            out.append(f"{entry.state:<8} {entry.present:>5}/{entry.chunks:<5} {entry.path}{access}{shown}")
        out += [f"         {text}" for text in entry.below]
    count = Counter(entry.state for entry in found)
    states = ("done", "running", "waiting", "partial", "failed", "damaged")
    total = ", ".join(f"{count[state]} {state}" for state in states if count[state])
    return "\n".join([*out, total or "no runs", ""])


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run; 1 where one is failed or damaged."""
    parser = argparse.ArgumentParser(prog="gauntlet status", description="List runs and what is left to do.")
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
