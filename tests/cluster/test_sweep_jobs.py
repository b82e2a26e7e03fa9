"""How the jobs of a sweep stand, from their files alone."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gauntlet.cluster import launchers
from gauntlet.cluster.sweep_jobs import JobState, SweepJob, find_jobs, verdict
from gauntlet.errors import UserError
from gauntlet.evidence.recorded_command import command_of_all_shards


@pytest.fixture
def job(tmp_path):
    return SweepJob(tmp_path / "_sweep" / "cells", "run", ("attack=pgd", "threat.eps=8/255"))


def test_the_order_of_options_makes_no_other_job(job):
    assert SweepJob(job.folder, "run", job.words[::-1]).path == job.path
    assert SweepJob(job.folder, "train", job.words).path != job.path
    assert SweepJob(job.folder, "run", job.words[:1]).path != job.path


def test_a_job_that_ends_is_done_or_failed(job, tmp_path):
    assert job.status() == JobState("waiting")
    job.wait()
    assert find_jobs(tmp_path) == [job]
    with job.at_work() as said:
        assert job.status() == JobState("running")
        job.wait()  # the sweep was started a second time: the process at work keeps the job
        assert job.status() == JobState("running")
        said.append("")
    assert job.status() == JobState("done")
    with job.at_work() as said:
        said.append("threat.eps=-1 must be positive")
    assert job.status() == JobState("failed", "threat.eps=-1 must be positive")


def test_two_copies_of_a_job_do_no_harm(job, monkeypatch):
    monkeypatch.setattr("gauntlet.system.lock.PATIENCE", 0.1)
    with job.at_work() as said:
        busy = rf"process {os.getpid()} on .* is working on this job: python run\.py"
        with pytest.raises(UserError, match=busy), job.at_work():
            pass
        said.append("")
    assert job.status() == JobState("done")


DIES = """
import os, signal
from pathlib import Path
from gauntlet.cluster.sweep_jobs import SweepJob
with SweepJob(Path({folder!r}), "run", {words!r}).at_work():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_job_is_partial_and_its_log_tells_the_last_line(job):
    code = DIES.format(folder=str(job.folder), words=job.words)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert job.status() == JobState("interrupted", "its process ended without a word")
    log = job.folder / "job.err"
    log.write_text("loading\n 10%|#  |\r 20%|## |\n\n")
    record = json.loads(job.path.read_text())
    job.path.write_text(json.dumps(record | {"log": str(log)}))
    assert job.status() == JobState("interrupted", "20%|## |")


def test_a_sweep_that_the_user_stops_says_so(job):
    with pytest.raises(SystemExit), job.at_work():
        sys.exit(130)
    assert job.status() == JobState("interrupted", "stopped")
    lines, done = verdict([job, SweepJob(job.folder, "run", ("attack=fgsm",))], stopped=True)
    assert not done
    assert lines[0] == "sweep of 2: 1 interrupted, 1 waiting"
    assert lines[2:] == ["            stopped", "waiting: not begun", "the same command goes on"]
    with job.at_work():
        assert job.status() == JobState("running")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"program": "run"}'])
def test_a_damaged_record_is_as_none(job, tmp_path, content):
    job.folder.mkdir(parents=True)
    job.path.write_text(content)
    assert job.status().state == "waiting"
    assert find_jobs(tmp_path) == []


def test_a_sweep_is_whole_once_every_job_is_done(job):
    other = SweepJob(job.folder, "run", ("attack=fgsm",))
    with job.at_work() as said:
        said.append("")
    assert verdict([job]) == (["sweep of 1: 1 done"], True)
    lines, done = verdict([job, other])
    assert not done
    assert lines[0] == "sweep of 2: 1 done, 1 waiting"
    assert str(job.folder) in lines[1]
    with other.at_work() as said:
        said.append("no space left")
    lines, done = verdict([job, other])
    assert not done
    assert lines[1:] == [
        "failed      python run.py attack=fgsm",
        "            no space left",
        "the same command goes on",
    ]


@pytest.mark.parametrize(
    ("one", "all_of_them"),
    [
        ("python run.py attack=pgd", "python run.py attack=pgd"),
        (
            "python run.py attack=pgd runtime.shards=8 runtime.shard=3 seed=1",
            "python run.py -m attack=pgd runtime.shards=8 seed=1 'runtime.shard=range(8)'",
        ),
        ("python run.py runtime.shards=2", "python run.py -m runtime.shards=2 'runtime.shard=range(2)'"),
        ("python run.py runtime.shards=1 runtime.shard=0", "python run.py runtime.shards=1 runtime.shard=0"),
    ],
)
def test_a_run_in_shards_is_finished_by_all_of_them(one, all_of_them):
    assert command_of_all_shards(one) == all_of_them


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "hydra/launcher=slurm"], "pip install hydra-submitit-launcher"),
        (["-m", "hydra/launcher=joblib"], "pip install hydra-joblib-launcher"),
        (["--multirun", "hydra/launcher=ray"], "pip install hydra-ray-launcher"),
        (["hydra/launcher=local"], "add -m"),
    ],
)
def test_a_launcher_that_is_not_here_takes_one_line(words, said, monkeypatch):
    monkeypatch.setattr(launchers, "_there", lambda module: False)
    with pytest.raises(UserError, match=said):
        launchers.checked(words)


def test_a_machine_without_slurm_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(launchers, "_there", lambda module: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm here"):
        launchers.checked(["-m", "hydra/launcher=slurm"])


@pytest.mark.parametrize(
    ("answer", "words", "added"),
    [
        ("MaxArraySize            = 101", [], ["hydra.sweeper.max_batch_size=100"]),
        ("MaxArraySize            = 1001", [], []),
        ("MaxArraySize            = 101", ["hydra.sweeper.max_batch_size=7"], []),
        ("nothing of the kind", [], []),
    ],
)
def test_a_sweep_is_cut_to_the_largest_array_of_the_site(answer, words, added, monkeypatch, tmp_path):
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'MaxJobCount = 5'\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(launchers, "_there", lambda module: True)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    line = ["-m", "hydra/launcher=slurm", *words]
    assert launchers.checked(line) == [*line, *added]
    line = ["-m", "hydra/launcher=joblib", *words]
    assert launchers.checked(line) == line
