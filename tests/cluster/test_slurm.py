"""A sweep of shards as a job array on a real Slurm, one worker killed: the evidence is that of an undisturbed run."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent.parent
CELLS = ["attack=pgd", "attack.steps=300", "dataset.limit=192", "runtime.chunk=16", "runtime.progress=false"]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=10"]

pytestmark = pytest.mark.skipif(not os.environ.get("GAUNTLET_CLUSTER"), reason="starts a Slurm: make cluster-test")


@pytest.fixture(scope="module")
def slurm():
    """The environment in which Slurm's commands find the cluster of this test."""
    spec = importlib.util.spec_from_file_location("slurm", Path(__file__).with_name("slurm.py"))
    cluster = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    if why := cluster.missing():
        pytest.skip(why)
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install hydra-submitit-launcher")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to the user slurm
        try:
            yield os.environ | {"SLURM_CONF": str(cluster.start(Path(folder)))}
        finally:
            cluster.stop(Path(folder))


def program(*words, environment=None):
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
    )  # fmt: skip


def records(folder):
    """Rows by threat, stage and sample."""
    found = {}
    for manifest in folder.rglob("run.json"):
        if "_trained" not in manifest.parts:
            table = pd.concat(pd.read_parquet(path) for path in sorted(manifest.parent.glob("records/*.parquet")))
            threat = json.loads(manifest.read_text())["threat"]["eps"]
            found[threat] = table.sort_values(["stage", "sample"], ignore_index=True)
    return found


def until(true, seconds=200):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
    return found


def at_work(folder):
    """The process ids of the cells that have written records and hold the run."""
    found = []
    for owner in folder.glob("digits/*/*/*/*/run-*.owner"):
        if list(owner.parent.glob("records/*.parquet")):
            found.append(int(owner.read_text().split()[1]))
    return found


def waits(environment):
    """The array tasks that were put back in the queue and wait out Slurm's two minutes."""
    said = subprocess.run(
        ["squeue", "-h", "-r", "-o", "%i %r"], env=environment, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    return [line.split()[0] for line in said.splitlines() if line.endswith(" BeginTime")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_killed_in_a_job_array_costs_nothing(slurm, tmp_path):
    sweep = [*CELLS, "threat.eps=0.1,0.2"]
    shards = ["runtime.shards=2", "runtime.shard=range(2)"]
    array = subprocess.Popen(
        [sys.executable, "run.py", "-m", *sweep, *shards, f"runs_dir={tmp_path}/array", *SLURM],
        cwd=ROOT, env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        os.kill(until(lambda: at_work(tmp_path / "array"))[0], signal.SIGKILL)
        (task,) = until(lambda: waits(slurm))
        subprocess.run(["scontrol", "update", f"JobId={task}", "StartTime=now"], env=slurm, check=True)
        said = array.communicate(timeout=400)[1]
    finally:
        array.kill()
    assert array.returncode == 0, said
    assert "sweep of 4: 4 done" in said
    alone = program("run.py", "-m", *sweep, f"runs_dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    array, alone = records(tmp_path / "array"), records(tmp_path / "alone")
    assert set(array) == set(alone) == {"0.1", "0.2"}
    assert all(array[eps].equals(alone[eps]) for eps in alone)
    state = program("-m", "harness.status", f"{tmp_path}/array")
    assert state.returncode == 0
    assert state.stdout.endswith("2 done\n")


def test_a_failed_cell_is_told_with_its_last_line(slurm, tmp_path):
    done = program(
        "run.py", "-m", *CELLS, "threat.eps=-1,-2", f"runs_dir={tmp_path}", *SLURM, environment=slurm
    )  # fmt: skip
    assert done.returncode == 1
    assert "sweep of 2: 2 failed" in done.stderr
    assert "threat.eps=-1.0 must be a positive number" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_partition_that_does_not_exist_takes_one_line(slurm, tmp_path):
    words = [*SLURM, "hydra.launcher.partition=nowhere"]
    done = program("run.py", "-m", *CELLS, "threat.eps=0.1,0.2", f"runs_dir={tmp_path}", *words, environment=slurm)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "invalid partition" in lines[0]
    assert "Traceback" not in done.stderr
