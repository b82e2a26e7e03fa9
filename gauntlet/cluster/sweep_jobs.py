"""What becomes of the jobs of a sweep, kept in files: the processes that work on them may be on any machine.

    runs/_sweep/cells/<key>.json    one job: its command, its state, what it said last, where its log is
    runs/_sweep/cells/<key>.lock    held by the process at work (see `gauntlet.system.lock`), by none once it is dead

The process that starts a sweep writes that each job waits; the job itself writes the rest. Imports no torch.
"""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gauntlet.cluster import slurm
from gauntlet.errors import UserError
from gauntlet.system.file_reader import read_json, read_tail
from gauntlet.system.lock import Owner, holder, sole_owner, whoami
from gauntlet.system.orphan import end_with_parent

STATES = ("done", "running", "interrupted", "waiting", "failed")
_TAIL = 4096

announced: list["SweepJob"] = []
"""The jobs of the sweep that this process has started."""


@dataclass(frozen=True)
class JobState:
    """The state of a job. state: one of `STATES`, interrupted: its process began and is gone; said: its last line, or
    its progress while it runs."""

    state: str
    said: str = ""


@dataclass(frozen=True)
class SweepJob:
    """One job: a program (run, train) and its options, in a folder of jobs."""

    folder: Path
    program: str
    words: tuple[str, ...]

    @property
    def path(self) -> Path:
        name = json.dumps([self.program, *sorted(self.words)]).encode()
        return self.folder / f"{hashlib.sha256(name).hexdigest()[:16]}.json"

    @property
    def command(self) -> str:
        """Return what the user can paste to do this job alone."""
        return shlex.join(["python", f"{self.program}.py", *self.words])

    def wait(self) -> None:
        """Say that it waits for a process, unless one is at work."""
        if not self._holder():
            self._write("waiting")

    def fail(self, why: str) -> None:
        """Say that it failed before its own process could."""
        self._write("failed", said=why)

    @contextmanager
    def at_work(self) -> Iterator[list[str]]:
        """Hold the job. The caller appends what is wrong, "" for nothing, to the list; else the job stays interrupted,
        and says that it was stopped if that was by Ctrl-C. A worker of joblib ends with the sweep, however that ends.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        with sole_owner(self.folder, self.path.stem, "; wait for it", what=f"this job: {self.command}"):
            end_with_parent()
            about = {"who": whoami(), "log": _log()}
            self._write("running", **about)
            said: list[str] = []
            try:
                yield said
            except (KeyboardInterrupt, SystemExit):
                self._write("running", said="stopped", **about)
                raise
            if said:
                self._write("failed" if said[0] else "done", said=said[0], **about)

    def status(self) -> JobState:
        """Return how it stands, from its files."""
        record = self._read()
        state, said = str(record.get("state", "waiting")), str(record.get("said", ""))
        owner = self._holder() if state == "running" else None
        if owner is not None:
            return JobState(state, owner.doing)
        state = "interrupted" if state == "running" else state
        if state in ("interrupted", "failed"):
            said = said or _last_line(record.get("log")) or "its process ended without a word"
        return JobState(state, said)

    def _holder(self) -> Owner | None:
        return holder(self.folder, self.path.stem)

    def _read(self) -> dict[str, Any]:
        try:
            record = read_json(self.path)
        except (OSError, UserError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, state: str, **more: str) -> None:
        from gauntlet.system.atomic_file import write_atomically  # whose import takes long, and --help needs none of it

        record = {"program": self.program, "words": self.words, "state": state} | more
        write_atomically(self.path, (json.dumps(record, indent=1) + "\n").encode())


def job_of(hydra: HydraConf | DictConfig) -> SweepJob:
    """Return the job that this process works on, from Hydra's configuration."""
    return SweepJob(Path(hydra.sweep.dir) / "cells", hydra.job.name, tuple(hydra.overrides.task))


def find_jobs(root: Path) -> list[SweepJob]:
    """Every job of the sweeps whose runs are in `root`."""
    found = []
    for path in sorted((root / "_sweep" / "cells").glob("*.json")):
        try:
            record = read_json(path)
            found.append(SweepJob(path.parent, record["program"], tuple(record["words"])))
        except (OSError, UserError, KeyError, TypeError):  # being replaced, or damaged: the sweep writes it anew
            continue
    return found


class Announce(Callback):
    """Hydra calls it in the process that starts a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Write that each job waits."""
        hydra = config.hydra
        if config.get("estimate"):  # nothing is made of it
            return
        fixed = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([*fixed, *hydra.overrides.task])
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        job_of_words = partial(SweepJob, Path(hydra.sweep.dir) / "cells", hydra.job.name)
        announced[:] = [job_of_words(tuple(words)) for words in jobs]
        if str(hydra.launcher.get("_target_")).endswith(".SlurmLauncher"):
            slurm.watch_queue(lambda words, logs: _lost(job_of_words(tuple(words)), logs))
        for job in announced:
            try:
                job.wait()
            except UserError:  # the launcher cannot write there either, and stops
                return


def _lost(job: SweepJob, logs: list[Path]) -> None:
    """Record what the log says last of a job whose process ended before it took the job up."""
    said = next(filter(None, map(_last_line, logs)), "")
    if said and job.status().state == "waiting":
        job.fail(said)


def verdict(jobs: Iterable[SweepJob], stopped: bool = False) -> tuple[list[str], bool]:
    """Return what to say of a sweep that has ended, or that the user has stopped, and whether every job is done."""
    stand = [(job, job.status()) for job in jobs]
    counts = [f"{number} {state}" for state in STATES if (number := sum(one.state == state for _, one in stand))]
    out = [f"sweep of {len(stand)}: {', '.join(counts)}"]
    for job, one in stand:
        if one.state in ("failed", "interrupted"):
            out += [f"{one.state:<11} {job.command}", f"            {one.said}"]
    if any(one.state == "waiting" for _, one in stand):
        nobody = f"no process took these up, or none that can write {stand[0][0].folder}"
        out.append(f"waiting: {'not begun' if stopped else nobody}")
    whole = all(one.state == "done" for _, one in stand)
    return out if whole else [*out, "the same command goes on"], whole


def _log() -> str:
    """Where the standard error of this process goes, if a scheduler keeps it."""
    if "SUBMITIT_FOLDER" not in os.environ or "submitit" not in sys.modules:
        return ""
    return str(sys.modules["submitit"].JobEnvironment().paths.stderr)


def _last_line(path: Any) -> str:
    """Of a log; where a progress bar wrote, its last state."""
    try:
        lines = read_tail(Path(str(path)), _TAIL).decode(errors="replace").replace("\r", "\n").splitlines()
    except (OSError, UserError):
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
