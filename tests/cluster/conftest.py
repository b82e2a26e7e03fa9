"""A real Slurm for the tests of this folder, sweeps under it, and their records."""

import contextlib
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

ROOT = Path(__file__).parents[2]
TWELVE = [
    "attack=pgd,pma", "defense=none,adversarial_training", "threat.eps=0.05,0.1,0.2", "attack.steps=40",
    "defense.parts.model.recipe.epochs=4",  # not the epochs of the shipped weights: both networks are trained
    "dataset.limit=96", "runtime.chunk=8",
]  # fmt: skip
SLURM = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=30"]
PATIENCE = 900
"""Seconds in which whatever a test waits for must have happened."""


LIVE = {"test_launchers.py", "test_mishaps.py", "test_shards.py", "test_slurm.py"}
"""Files whose tests start a scheduler."""


def pytest_collection_modifyitems(items):
    reason = "starts a Slurm or a Ray: make cluster-test"
    for item in items:
        if (
            Path(__file__).parent == item.path.parent
            and item.path.name in LIVE
            and not os.environ.get("GAUNTLET_CLUSTER")
        ):
            item.add_marker(pytest.mark.skip(reason=reason))


class Site:
    """A Slurm and what a user does with it."""

    def __init__(self, conf):
        self.env = os.environ | {"SLURM_CONF": str(conf)}
        self.terminals = []

    def ask(self, *command):
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True).stdout

    def queue(self):
        """Array task -> its state and the reason of that."""
        lines = (line.split("|") for line in self.ask("squeue", "-h", "-r", "-o", "%i|%T|%r").splitlines())
        return {job: (state, reason) for job, state, reason in lines}

    def running(self):
        return [job for job, (state, _) in self.queue().items() if state == "RUNNING"]

    def waits(self, job):
        """Whether it was put back in the queue, where Slurm keeps it for two minutes."""
        return self.queue().get(job) == ("PENDING", "BeginTime")

    def hurry(self):
        """Spare a test these two minutes."""
        for job, (_, reason) in self.queue().items():
            if reason == "BeginTime":
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def suspended(self, pid, true):
        """Keep a process suspended until this is so: Slurm wakes what it ends, for a grace in which it may get done."""

        def so():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            return true()

        until(so)

    def sweep(self, runs, *words):
        """Start a sweep; its terminal is the process that is returned."""
        self.terminals.append(start("-m", *SLURM, *words, f"runs_dir={runs}", env=self.env))
        return self.terminals[-1]

    def ended(self, terminal):
        """What the terminal of a sweep said on standard error; jobs that were put back start at once."""
        until(lambda: (terminal.poll() is not None) or self.hurry())
        return terminal.communicate()[1]


@pytest.fixture(scope="session")
def site():
    spec = importlib.util.spec_from_file_location("slurm", Path(__file__).with_name("slurm.py"))
    cluster = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    if why := cluster.missing():
        pytest.skip(why)
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install hydra-submitit-launcher")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to the user slurm
        try:
            yield (site := Site(cluster.start(Path(folder))))
            for terminal in site.terminals:  # of tests that failed
                terminal.kill()
        finally:
            cluster.stop(Path(folder))


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The records of the twelve jobs, from one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    code, said = ended(start("-m", *TWELVE, f"runs_dir={folder}"))
    assert code == 0, said
    return records(folder)


def start(*words, env=None, python=sys.executable, program="run.py"):
    return subprocess.Popen(
        [python, *program.split(), *words], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE if program != "run.py" else subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process):
    said = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, said


def until(true):
    end = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
    return found


def records(folder):
    """Rows by defense, attack and threat; every run must be done."""
    found = {}
    for path in folder.glob("digits/*/*/*/*/run.json"):
        manifest = json.loads(path.read_text())
        assert manifest["status"] == "done", path
        table = pd.concat(pd.read_parquet(part) for part in sorted(path.parent.glob("records/*.parquet")))
        assert not table.duplicated(["sample", "stage"]).any(), path
        key = (manifest["name"]["defense"], manifest["name"]["attack"], manifest["threat"]["eps"])
        found[key] = table.sort_values(["stage", "sample"], ignore_index=True)
    return found


def same(one, two):
    assert set(one) == set(two)
    return all(one[key].equals(two[key]) for key in two)


def caught(folder, lock, begun, ended, but=()):
    """A process in the midst of its work, suspended: its id and its job.

    Args:
        lock: pattern of the files that name owners.
        begun, ended: whether the work in the folder of the lock has begun, and ended.
        but: jobs that are left alone.
    """

    def one():
        for owner in folder.glob(lock):
            with contextlib.suppress(OSError, IndexError, KeyError):
                pid = int(owner.read_text().split()[1])
                if (job := job_of(pid)) in but or not begun(owner.parent):
                    continue
                os.kill(pid, signal.SIGSTOP)
                if owner.exists() and not ended(owner.parent):
                    return pid, job
                os.kill(pid, signal.SIGCONT)
        return None

    return until(one)


def worker(folder, but=()):
    """A process that has written records and will write more."""
    parts = lambda run: list(run.glob("records/*.parquet"))  # noqa: E731
    return caught(folder, "digits/*/*/*/*/run-*.owner", parts, lambda run: len(parts(run)) > 8, but)


def trainer(folder):
    """A process that trains a network that other jobs need too."""
    begun = lambda place: (place / "history.json").exists()  # noqa: E731
    return caught(folder, "_trained/*/train.owner", begun, lambda place: (place / "best.safetensors").exists())


def job_of(pid):
    """The array task, or job, whose process this is, as its environment says; "": it belongs to none."""
    told = dict(word.partition("=")[::2] for word in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    array = told.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{told['SLURM_ARRAY_TASK_ID']}" if array else told.get("SLURM_JOB_ID", "")


@pytest.fixture
def tools():
    """What the tests of this folder share."""
    names = (start, ended, until, records, same, caught, worker, trainer)
    return type("Tools", (), {f.__name__: staticmethod(f) for f in names} | {"TWELVE": TWELVE, "ROOT": ROOT})
