"""A training that is killed with SIGKILL and started again gives the same weights, bit for bit."""

import multiprocessing
import runpy
import time
from pathlib import Path

import pytest

from gauntlet.training import history
from gauntlet.training.loop import BEST, LAST

SCRIPT = Path(__file__).with_name("killable.py")
SERVER = multiprocessing.get_context("forkserver")  # imports torch once; each training is a process of its own


def _start(folder, average):
    SERVER.set_forkserver_preload(["gauntlet.training.loop"])
    process = SERVER.Process(target=runpy.run_path, args=(str(SCRIPT), {"FOLDER": str(folder), "AVERAGE": average}))
    process.start()
    return process


def _wait(process):
    process.join()
    return process.exitcode


def _kill_after(process, state, saves):
    """SIGKILL once the state has been seen to change so many times."""
    seen, last = 0, None
    while process.exitcode is None and seen < saves:
        try:
            now = state.stat().st_ino, state.stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        if now not in (None, last):
            seen, last = seen + 1, now
        time.sleep(0.001)
    process.kill()
    return _wait(process)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes
@pytest.mark.parametrize("average", ["ema", "swa"])
def test_killed_twice_and_resumed_gives_the_same_bits(average, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    reference = _start(straight, average)
    assert _kill_after(_start(broken, average), broken / "state.pt", 4) == -9
    assert not (broken / BEST).exists()
    assert _kill_after(_start(broken, average), broken / "state.pt", 9) == -9
    assert not (broken / BEST).exists()
    assert _wait(_start(broken, average)) == _wait(reference) == 0
    for name in (BEST, LAST):
        assert (broken / name).read_bytes() == (straight / name).read_bytes()
    first, second = history.read(broken), history.read(straight)
    assert (first.best, first.last) == (second.best, second.last)
    assert [(e.loss, e.clean, e.pgd, e.forwards) for e in first.epochs] == [
        (e.loss, e.clean, e.pgd, e.forwards) for e in second.epochs
    ]
    assert not (broken / "state.pt").exists()
