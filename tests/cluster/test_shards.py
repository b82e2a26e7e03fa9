"""One evaluation over eight shards under Slurm, one of them twice at once: the rows are those of one process."""

import os
import signal

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CELL = ["attack=pgd", "attack.steps=60", "dataset.limit=256", "runtime.chunk=8", "threat.eps=0.1"]
SHARDS = ["runtime.shards=8", "runtime.shard=range(8)"]


def test_eight_shards_are_the_whole_and_copies_of_one_do_no_harm(site, tools, tmp_path):
    code, said = tools.ended(tools.start(*CELL, f"runs_dir={tmp_path}/alone"))
    assert code == 0, said
    runs = tmp_path / "shards"
    terminal = site.sweep(runs, *CELL, *SHARDS)
    begun = lambda run: (run / "run.json").exists()  # noqa: E731
    pid, _ = tools.caught(runs, "digits/*/*/*/*/run-*-of-8.owner", begun, lambda run: False)
    (owner,) = [path for path in runs.glob("digits/*/*/*/*/run-*.owner") if str(pid) in path.read_text()]
    shard = [*CELL, "runtime.shards=8", f"runtime.shard={owner.name.split('-')[1]}", f"runs_dir={runs}"]
    code, said = tools.ended(tools.start(*shard))  # while the first copy is suspended
    assert code == 1
    assert f"error: process {pid} on " in said
    assert "is working on" in said
    owner.with_suffix(".lock").unlink()  # as if another machine shared no locks
    owner.unlink()
    copy = tools.start(*shard)
    os.kill(pid, signal.SIGCONT)
    code, said = tools.ended(copy)
    assert code == 0, said
    said = site.ended(terminal)
    assert terminal.returncode == 0, said
    assert said.endswith("sweep of 8: 8 done\n")
    assert tools.same(tools.records(runs), tools.records(tmp_path / "alone"))


def test_a_run_may_go_on_in_another_number_of_shards(site, tools, tmp_path):
    code, said = tools.ended(tools.start(*CELL, f"runs_dir={tmp_path}/alone"))
    assert code == 0, said
    runs = tmp_path / "shards"
    code, said = tools.ended(tools.start(*CELL, "runtime.shards=8", "runtime.shard=5", f"runs_dir={runs}"))
    assert code == 0, said
    terminal = site.sweep(runs, *CELL, "runtime.shards=3", "runtime.shard=range(3)")
    said = site.ended(terminal)
    assert terminal.returncode == 0, said
    assert tools.same(tools.records(runs), tools.records(tmp_path / "alone"))
