"""Twenty SIGKILLs at random moments over the shards of an evaluation: `python killed.py FOLDER`.

All libraries are loaded once; each worker is a fork. Leaves FOLDER/whole, of an undisturbed worker, and FOLDER/killed.
"""

import copy
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pyarrow.dataset  # noqa: F401
import torch._dynamo
from hydra import compose, initialize_config_dir

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.attack_setup import prepare

SHARDS, KILLS = 4, 20
CELL = ["attack.steps=10", "dataset.limit=300", "runtime.chunk=5", "runtime.progress=false", "threat.eps=0.1"]
CHOICES = {"defense": "none", "attack": "pgd", "model": "small_cnn"}


def configured(runs, shards=1, shard=0):
    cfg = copy.deepcopy(COMPOSED)
    cfg.runs_dir, cfg.runtime.shards, cfg.runtime.shard = str(runs), shards, shard
    return cfg


def worker(runs, shards=1, shard=0):
    """Start one; its process id."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        evaluate(configured(runs, shards, shard), CHOICES, "python run.py")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def done(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(runs, shard, chance):
    """Kill a worker at a random moment: while it starts, or after it has added one or two parts.

    Returns whether it was still at work: it may have found nothing left to do, or have been faster.
    """
    parts = lambda: len(list(runs.rglob("part-*.parquet")))  # noqa: E731
    wanted = parts() + chance.randrange(3)
    pid = worker(runs, SHARDS, shard)
    while parts() < wanted:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0
            return False
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)  # which one that has ended takes too, until it is waited for
    status = done(pid)
    assert status in (0, -signal.SIGKILL)
    return status != 0


with initialize_config_dir(CONF, version_base=None):
    COMPOSED = compose("run", CELL)
folder, chance = Path(sys.argv[1]), random.Random(0)
torch.set_num_threads(1)
prepare(configured(folder), CHOICES, "python run.py")  # loads all that the workers need
assert done(worker(folder / "whole")) == 0
landed = sum(killed(folder / "killed", turn % SHARDS, chance) for turn in range(KILLS))
for turn in range(10 * KILLS):  # those that came too late are made up for, on shards that are done as well
    if landed < KILLS:
        landed += killed(folder / "killed", turn % SHARDS, chance)
assert landed == KILLS, landed
assert all(done(worker(folder / "killed", SHARDS, shard)) == 0 for shard in range(SHARDS))
