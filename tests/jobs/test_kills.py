"""Twenty kills at random moments lose no record and double none."""

import json
import os
import subprocess
import sys
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
