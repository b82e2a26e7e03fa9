"""How the cells of a sweep stand, from their files alone."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gauntlet.cluster import launchers
from gauntlet.cluster.sweep_jobs import Standing, SweepJob, find_cells, verdict
from gauntlet.commands.status import whole
from gauntlet.errors import UserError


@pytest.fixture
def cell(tmp_path):
    return SweepJob(tmp_path / "_sweep" / "cells", "run", ("attack=pgd", "threat.eps=8/255"))


def test_the_order_of_options_makes_no_other_cell(cell):
    assert SweepJob(cell.folder, "run", cell.words[::-1]).path == cell.path
    assert SweepJob(cell.folder, "train", cell.words).path != cell.path
    assert SweepJob(cell.folder, "run", cell.words[:1]).path != cell.path


def test_a_cell_that_ends_is_done_or_failed(cell, tmp_path):
    assert cell.standing() == Standing("waiting")
    cell.wait()
    assert find_cells(tmp_path) == [cell]
    with cell.at_work() as said:
        assert cell.standing() == Standing("running")
        cell.wait()  # the sweep was started a second time: the process at work keeps the cell
        assert cell.standing() == Standing("running")
        said.append("")
    assert cell.standing() == Standing("done")
    with cell.at_work() as said:
        said.append("threat.eps=-1 must be positive")
    assert cell.standing() == Standing("failed", "threat.eps=-1 must be positive")


def test_two_copies_of_a_cell_do_no_harm(cell, monkeypatch):
    monkeypatch.setattr("gauntlet.system.lock.PATIENCE", 0.1)
    with cell.at_work() as said:
        busy = rf"process {os.getpid()} on .* is working on this cell: python run\.py"
        with pytest.raises(UserError, match=busy), cell.at_work():
            pass
        said.append("")
    assert cell.standing() == Standing("done")


DIES = """
import os, signal
from pathlib import Path
from gauntlet.cluster.sweep_jobs import SweepJob
with SweepJob(Path({folder!r}), "run", {words!r}).at_work():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_cell_is_partial_and_its_log_tells_the_last_line(cell):
    code = DIES.format(folder=str(cell.folder), words=cell.words)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert cell.standing() == Standing("partial", "its process ended without a word")
    log = cell.folder / "job.err"
    log.write_text("loading\n 10%|#  |\r 20%|## |\n\n")
    record = json.loads(cell.path.read_text())
    cell.path.write_text(json.dumps(record | {"log": str(log)}))
    assert cell.standing() == Standing("partial", "20%|## |")


def test_a_sweep_that_the_user_stops_says_so(cell):
    with pytest.raises(SystemExit), cell.at_work():
        sys.exit(130)
    assert cell.standing() == Standing("partial", "stopped")
    lines, done = verdict([cell, SweepJob(cell.folder, "run", ("attack=fgsm",))], stopped=True)
    assert not done
    assert lines[0] == "sweep of 2: 1 partial, 1 waiting"
    assert lines[2:] == ["         stopped", "waiting: not begun", "the same command goes on"]
    with cell.at_work():
        assert cell.standing() == Standing("running")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"program": "run"}'])
def test_a_damaged_record_is_as_none(cell, tmp_path, content):
    cell.folder.mkdir(parents=True)
    cell.path.write_text(content)
    assert cell.standing().state == "waiting"
    assert find_cells(tmp_path) == []


def test_a_sweep_is_whole_once_every_cell_is_done(cell):
    other = SweepJob(cell.folder, "run", ("attack=fgsm",))
    with cell.at_work() as said:
        said.append("")
    assert verdict([cell]) == (["sweep of 1: 1 done"], True)
    lines, done = verdict([cell, other])
    assert not done
    assert lines[0] == "sweep of 2: 1 done, 1 waiting"
    assert str(cell.folder) in lines[1]
    with other.at_work() as said:
        said.append("no space left")
    lines, done = verdict([cell, other])
    assert not done
    assert lines[1:] == ["failed   python run.py attack=fgsm", "         no space left", "the same command goes on"]


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
    assert whole(one) == all_of_them


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
