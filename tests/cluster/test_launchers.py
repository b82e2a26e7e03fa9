"""The twelve jobs through the other launchers."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_joblib_gives_the_same_records(tools, alone, tmp_path):
    """Its sweep ends when a worker is killed, and the same command goes on."""
    words = ["-m", *tools.TWELVE, f"runs_dir={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    first = tools.start(*words)
    pid, _ = tools.worker(tmp_path)
    os.kill(pid, signal.SIGKILL)
    code, said = tools.ended(first)
    assert code == 1
    assert "error: the launcher says TerminatedWorkerError" in said
    assert "the same command goes on" in said
    code, said = tools.ended(tools.start(*words))
    assert code == 0, said
    assert tools.same(tools.records(tmp_path), alone)


def test_ray_gives_the_same_records(tools, alone, tmp_path):
    """Ray starts the task of a killed worker again."""
    python = os.environ.get("GAUNTLET_RAY", sys.executable)
    there = subprocess.run([python, "-c", "import hydra_plugins.hydra_ray_launcher"], check=False, capture_output=True)
    if there.returncode:
        pytest.skip(f"{python} has no hydra-ray-launcher; GAUNTLET_RAY names the Python of an environment that has it")
    words = ["-m", *tools.TWELVE, f"runs_dir={tmp_path}", "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"]
    sweep = tools.start(*words, python=python)
    pid, _ = tools.worker(tmp_path)
    os.kill(pid, signal.SIGKILL)
    code, said = tools.ended(sweep)
    assert code == 0, said
    assert "sweep of 12: 12 done\n" in said  # what workers wrote may come after it
    assert tools.same(tools.records(tmp_path), alone)
