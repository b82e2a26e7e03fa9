"""List runs: `gauntlet status [runs]`. What is done, running, failed or interrupted, from the evidence alone.

One line a run: state, chunks, time, accuracy under attack (or certified), folder. Jobs of sweeps that have left no run
yet, because they wait, train or failed before they made one, are listed too. What a process is doing, its rate and the
time left stand in files beside the run: any machine that sees them can tell.
"""

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gauntlet.cluster.sweep_jobs import JobState, SweepJob, find_jobs
from gauntlet.errors import UserError, printable, reason
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import command_of_all_shards
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.metrics.display import DASH
from gauntlet.metrics.headline import headline
from gauntlet.system.progress import duration

STATES = ("done", "running", "waiting", "interrupted", "failed", "damaged")

WINDOW = 20
"""The rate is that of so many newest chunks."""


@dataclass(frozen=True)
class StatusLine:
    """One run, or a sweep job without one.

    Attributes:
        state: done, running (a process holds its lock), failed (rows with errors, or bad input), waiting (a sweep job
            that no process has taken up), interrupted, or damaged.
        remark: what is to be said beside it.
        access: what its attacker was given.
        command: what finishes it.
        below: of the sweep jobs and shards that share a run, a line each.
        when: day and minute of its end, or of its start.
        number: robust or certified accuracy, of a run that is done.
    """

    state: str
    present: int
    chunks: int
    path: Path
    remark: str
    access: str = "gradient"
    command: str = ""
    below: tuple[str, ...] = ()
    when: str = ""
    number: str = ""


def line(run: RunFolder) -> StatusLine:
    """Return the state of one run."""
    try:
        manifest = run.manifest()
        present, chunks, access = len(run.present()), manifest["chunks"], manifest.get("access", "gradient")
        when = str(manifest.get("finished") or manifest.get("started") or "")[:16].replace("T", " ")
        about = StatusLine(
            "done", present, chunks, run.path, "", access, command_of_all_shards(manifest["command"]), when=when
        )
        if manifest["status"] in ("done", "failed") and present == chunks:
            about = replace(about, number=headline(run, manifest))
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as cause:
        return StatusLine("damaged", 0, 0, run.path, reason(cause))
    if manifest["status"] == "done" and present == chunks:
        return about
    if owners := run.at_work():
        pace = _pace(run, manifest)
        if list(owners) == ["run-0-of-1"]:
            return replace(about, state="running", remark=owners["run-0-of-1"].doing or pace)
        below = tuple(f"{_shard(name)}, {owner.who}: {owner.doing or 'starting'}" for name, owner in owners.items())
        return replace(about, state="running", remark=pace, below=below)
    if manifest["status"] == "failed":
        first = (manifest.get("failures") or ["no reason recorded"])[0]
        return replace(about, state="failed", remark=str(first))
    return replace(about, state="interrupted")


def lines(root: Path) -> list[StatusLine]:
    """Return the runs below `root`, latest last, then the sweep jobs that a run does not stand for."""
    found = sorted((line(run) for run in find_runs(root)), key=lambda each: (each.when, each.path))
    runs: dict[str, int] = {one.command: place for place, one in enumerate(found) if one.command}
    for job in find_jobs(root):
        state, command = job.status(), command_of_all_shards(job.command)
        if command not in runs:
            if state.state != "done":
                found.append(_without_run(job, state))
            continue
        found[runs[command]] = _with_job(found[runs[command]], state)
    return found


def _with_job(run: StatusLine, job: JobState) -> StatusLine:
    """Return the line of a run that no process holds, with what one of its jobs says: it may be starting, or wait."""
    if job.state == "running" and run.state in ("interrupted", "waiting"):
        return replace(run, state="running", remark=job.said or "starting")
    if job.state == "waiting" and run.state == "interrupted":
        return replace(run, state="waiting")
    if job.said and job.state in ("interrupted", "failed") and run.state in ("interrupted", "failed"):
        return replace(run, below=(*run.below, job.said))
    return run


def _without_run(job: SweepJob, state: JobState) -> StatusLine:
    if state.state == "running":
        return StatusLine("running", 0, 0, Path(), f"{job.command}: {state.said or 'starting'}", command=job.command)
    forget = f"forget it: rm {shlex.quote(str(job.path))}" if state.state == "failed" else ""
    below = tuple(filter(None, (state.said, forget)))
    return StatusLine(state.state, 0, 0, Path(), job.command, command=job.command, below=below)


def sweep_table(jobs: Sequence[SweepJob]) -> list[str]:
    """Return the runs that the jobs of a sweep have made as a table, best number last; empty without any."""
    if not jobs:
        return []
    asked = {command_of_all_shards(job.command) for job in jobs}
    made = [each for each in lines(jobs[0].folder.parent.parent) if each.chunks and each.command in asked]
    return _table(made)


def _pace(run: RunFolder, manifest: Manifest) -> str:
    """Return samples per second and the time left, by when its newest chunks were written; "": too few are."""
    written = sorted(run.part_path(chunk).stat().st_mtime for chunk in run.present())
    newest = written[-WINDOW:]
    if len(newest) < 2 or newest[-1] <= newest[0]:
        return ""
    chunks = (len(newest) - 1) / (newest[-1] - newest[0])
    left = (manifest["chunks"] - len(written)) / chunks
    return f"{chunks * manifest['chunk']:.3g} samples/s, {duration(left)} left"


def _shard(name: str) -> str:
    """Return the name of a shard's lock in words."""
    return name.replace("run-", "shard ").replace("-of-", " of ")


def _table(found: Sequence[StatusLine]) -> list[str]:
    """Return one aligned line a run, and what stands below it."""
    rows = [
        (
            each.state,
            f"{each.present}/{each.chunks}" if each.chunks else DASH,
            printable(each.when) or DASH,
            printable(each.number) or DASH,
            printable(f"{each.path}{f' (access={each.access})' * (each.access != 'gradient')}") * (each.path != Path()),
            printable(each.remark),
        )
        for each in found
    ]
    width = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    out = []
    for each, (state, chunks, when, number, place, remark) in zip(found, rows, strict=True):
        head = f"{state:<{width[0]}}  {chunks:>{width[1]}}  {when:<{width[2]}}  {number:>{width[3]}}"
        out.append("  ".join(filter(None, (head, place, remark))))
        out += [f"         {printable(text)}" for text in each.below]
    return out


def _shown(found: Sequence[StatusLine]) -> str:
    count = Counter(each.state for each in found)
    total = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    hint = "; --commands prints what to go on with" if any(_left(each) for each in found) else ""
    return "\n".join([*_table(found), (total or "no runs") + hint, ""])


def _left(each: StatusLine) -> bool:
    """Return whether a command is left to be called."""
    return bool(each.command) and each.state in ("interrupted", "failed", "waiting")


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run; 1 where one is failed or damaged."""
    parser = argparse.ArgumentParser(prog="gauntlet status", description="List runs and what is left to do.")
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument(
        "--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help="again and again, until nothing runs"
    )
    parser.add_argument(
        "--state",
        metavar="STATE",
        type=lambda word: "interrupted" if word == "partial" else word,  # as version 0.1.0 called it
        choices=STATES,
        action="append",
        help=f"only these: {', '.join(STATES)}",
    )
    parser.add_argument(
        "--match", metavar="TEXT", default="", help="only those with this text in their folder or command"
    )
    parser.add_argument("--commands", action="store_true", help="print only the commands to go on with")
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
            found = [
                each
                for each in lines(given.runs)
                if each.state in (given.state or STATES) and given.match in f"{each.path} {each.command} {each.remark}"
            ]
            if given.commands:
                sys.stdout.write("".join(f"{each.command}\n" for each in found if _left(each)))
                return 0
            clear = "\033[H\033[J" if given.watch and sys.stdout.isatty() else ""
            sys.stdout.write(f"{clear}{_shown(found)}")
            sys.stdout.flush()
            if given.watch is None or not any(entry.state in ("running", "waiting") for entry in found):
                break
            time.sleep(given.watch)
    except KeyboardInterrupt:
        return 130
    return int(any(entry.state in ("failed", "damaged") for entry in found))
