"""Twenty kills at random moments lose no record and double none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def records(runs):
    (path,) = runs.glob("digits/*/*/*/*/run.json")
    assert json.loads(path.read_text())["status"] == "done"
    assert not list(path.parent.rglob("*.damaged"))
    parts = sorted(path.parent.glob("records/*.parquet"))
    table = pd.concat(map(pd.read_parquet, parts))
    assert len(parts) == 60
    return table.sort_values(["stage", "sample"], ignore_index=True)


@pytest.mark.slow
def test_twenty_random_kills_lose_and_double_no_record(tmp_path):
    script = Path(__file__).with_name("killed.py")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, tmp_path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, killed = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert not killed.duplicated(["sample", "stage"]).any()
    assert killed.equals(whole)


def _alive(pid):
    """Whether a process is at work: one that nobody has waited for yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(true, process, patience=120):
    end = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < end, "it takes too long"
        assert process is None or process.poll() is None, "it ended by itself"
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_the_workers_of_joblib_end_with_their_killed_sweep(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install hydra-joblib-launcher")
    words = ["-m", "attack=pgd", "attack.steps=100000000", "seed=0,1", "dataset.limit=8", "threat.eps=0.01"]
    place = [f"runs_dir={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "runtime.progress=false"]
    sweep = subprocess.Popen(
        [sys.executable, "run.py", *words, *place], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def workers():
        owners = list(tmp_path.glob("digits/*/*/*/*/run-*.owner"))
        return [int(owner.read_text().split()[1]) for owner in owners] if len(owners) == 2 else []

    try:
        pids = _wait(workers, sweep)
    finally:
        sweep.kill()
        sweep.wait()
    assert sweep.pid not in pids
    try:
        _wait(lambda: not any(map(_alive, pids)), None)
    finally:
        for pid in filter(_alive, pids):
            os.kill(pid, signal.SIGKILL)
