"""A training that is killed with SIGKILL and started again gives the same weights, bit for bit."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gauntlet.training import history
from gauntlet.training.loop import BEST, LAST

SCRIPT = Path(__file__).with_name("killable.py")
ROOT = SCRIPT.parents[2]


def _start(folder, average):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([sys.executable, SCRIPT, folder, average], env=os.environ | threads | {"PYTHONPATH": path})


def _kill_after(process, state, saves):
    """SIGKILL once the state has been seen to change so many times."""
    seen, last = 0, None
    while process.poll() is None and seen < saves:
        try:
            now = state.stat().st_ino, state.stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        if now not in (None, last):
            seen, last = seen + 1, now
        time.sleep(0.001)
    process.kill()
    return process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # six processes, each of which imports torch
@pytest.mark.parametrize("average", ["ema", "swa"])
def test_killed_twice_and_resumed_gives_the_same_bits(average, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    reference = _start(straight, average)
    assert _kill_after(_start(broken, average), broken / "state.pt", 4) == -9
    assert not (broken / BEST).exists()
    assert _kill_after(_start(broken, average), broken / "state.pt", 9) == -9
    assert not (broken / BEST).exists()
    assert _start(broken, average).wait() == reference.wait() == 0
    for name in (BEST, LAST):
        assert (broken / name).read_bytes() == (straight / name).read_bytes()
    first, second = history.read(broken), history.read(straight)
    assert (first.best, first.last) == (second.best, second.last)
    assert [(e.loss, e.clean, e.pgd, e.forwards) for e in first.epochs] == [
        (e.loss, e.clean, e.pgd, e.forwards) for e in second.epochs
    ]
    assert not (broken / "state.pt").exists()
