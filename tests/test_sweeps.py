"""Sweeps as a user runs them: shards, jobs in other processes, kills in between."""

import json
import re
import signal
import time

import pandas as pd
import pytest

from tests.program_server import call, start

CELLS = ["attack=pgd", "attack.steps=40", "dataset.limit=192", "runtime.chunk=16", "runtime.progress=false"]
SHARDS = ["runtime.shards=3"]


def records(folder):
    (manifest,) = [path for path in folder.rglob("run.json") if "_trained" not in path.parts]
    assert json.loads(manifest.read_text())["status"] == "done"
    table = pd.concat(pd.read_parquet(path) for path in sorted(manifest.parent.glob("records/*.parquet")))
    return table.sort_values(["stage", "sample"], ignore_index=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The records of one undisturbed process."""
    folder = tmp_path_factory.mktemp("whole")
    done = call(*CELLS, f"runs_dir={folder}")
    assert done.returncode == 0, done.stderr
    return records(folder)


@pytest.mark.slow
def test_shards_of_a_sweep_survive_a_kill_and_are_the_whole(whole, tmp_path):
    runs = f"runs_dir={tmp_path}"
    first = start(*CELLS, *SHARDS, "runtime.shard=1", runs)
    while first.poll() is None and not list(tmp_path.rglob("part-*.parquet")):
        time.sleep(0.002)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    told = call(str(tmp_path), script="-m gauntlet status")
    assert told.stdout.startswith("interrupted ")
    told = call(str(tmp_path), "--commands", script="-m gauntlet status")
    assert "runtime.shards=3" in told.stdout
    assert "'runtime.shard=range(3)'" in told.stdout
    done = call("-m", *CELLS, *SHARDS, "runtime.shard=range(3)", runs)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("sweep of 3: 3 done\n")
    assert records(tmp_path).equals(whole)


@pytest.mark.slow
def test_job_in_other_processes_are_told_and_the_sweep_ends_non_zero(whole, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install hydra-joblib-launcher")
    words = [*SHARDS, "runtime.shard=range(4)", f"runs_dir={tmp_path}", "hydra.launcher.n_jobs=2"]
    done = call("-m", "hydra/launcher=joblib", *CELLS, *words)
    assert done.returncode == 1
    assert "sweep of 4: 3 done, 1 failed" in done.stderr
    assert re.search(r"^ +runtime\.shard=3 must lie in 0 to 2 \(runtime\.shards=3\)$", done.stderr, re.MULTILINE)
    assert done.stderr.count("error: ") == 1
    assert "Warning" not in done.stderr
    assert records(tmp_path).equals(whole)
