"""Waiting for the jobs of a sweep under Slurm. Imports no torch, and submitit only when asked.

submitit waits with sacct, which needs an accounting database, and stops at the first job that is lost. Here squeue is
asked, which every site has, and a lost Slurm job ends no sweep: the sweep job's file says what became of it.
"""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DELAY = 30
"""Most seconds between two questions to squeue; the results themselves are looked for every second."""


def largest_array() -> int | None:
    """Return how many jobs an array may have at this site; None: it does not say."""
    try:
        asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    settings = dict(line.replace(" ", "").partition("=")[::2] for line in asked.stdout.splitlines())
    most = settings.get("MaxArraySize", "")
    return int(most) - 1 if most.isdigit() and int(most) > 1 else None


def watch_queue(lost: Callable[[Sequence[str], list[Path]], None]) -> None:
    """Make submitit wait for jobs as this module says.

    Args:
        lost: is told of each job that left the queue without a result, when none is in the queue any more: the
            overrides of its sweep job, and the logs of the job, the last one first.
    """
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Queue(SlurmInfoWatcher):  # type: ignore[misc]
        """A job is done when no job of the sweep is in the queue."""

        def _make_command(self) -> list[str] | None:
            return ["squeue", "--me", "--array", "--noheader", "--format=%i"] if self._registered else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string.decode() if isinstance(string, bytes) else string
            some = bool(self._registered & set(text.split()))
            return {job: {"State": "RUNNING" if some else "COMPLETED"} for job in self._registered}

    def results(job: SlurmJob) -> list[Any]:
        try:
            return list(Job.results(job))
        except (UncompletedJobError, FailedJobError):
            SlurmJob._results_timeout_s = 1  # the file system has had its time to show what there is
            lost(job.submission().args[0], [Path(job.paths.stderr), Path(job.paths.stdout)])
            return [JobReturn(status=JobStatus.COMPLETED)]

    SlurmJob.watcher, SlurmJob.results = Queue(delay_s=DELAY), results
