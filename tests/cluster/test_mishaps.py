"""What goes wrong on a cluster takes one line, ends the sweep non-zero, and loses nothing."""

import contextlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CELLS = ["attack=fgsm", "dataset.limit=64", "runtime.chunk=8", "threat.eps=0.1,0.2"]


def errors(said):
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_a_failed_job_is_told_with_its_last_line(site, tmp_path):
    terminal = site.sweep(tmp_path, *CELLS[:-1], "threat.eps=-1,0.1")
    said = site.ended(terminal)
    assert terminal.returncode == 1
    assert "sweep of 2: 1 done, 1 failed" in said
    assert "threat.eps=-1.0 must be a positive number" in said
    assert "Traceback" not in said


def test_a_partition_that_does_not_exist_takes_one_line(site, tmp_path):
    terminal = site.sweep(tmp_path, *CELLS, "hydra.launcher.partition=nowhere")
    said = site.ended(terminal)
    assert terminal.returncode == 1
    (line,) = errors(said)
    assert "invalid partition" in line
    assert "Traceback" not in said


def test_a_runs_folder_that_workers_cannot_see_is_told(site, tools, tmp_path):
    """The terminal has a file system of its own mounted there, which the workers lack."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    words = ["-m", *CELLS, f"runs_dir={hidden}", "hydra/launcher=slurm", "hydra.launcher.mem_gb=2"]
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to a mount of its own (unshare -m)")
    terminal = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", hidden, sys.executable, "run.py", *words],
        cwd=tools.ROOT, env=site.env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    said = site.ended(terminal)
    assert terminal.returncode == 1
    assert "sweep of 2: 2 waiting" in said
    assert f"waiting: no process took these up, or none that can write {hidden}" in said
    assert "Traceback" not in said


def test_a_full_disk_on_one_worker_loses_nothing(site, tools, tmp_path):
    """Somebody fills the disk in the midst of a run; once that is gone the same command goes on."""
    small, words = tmp_path / "small", ["attack=pgd", "attack.steps=300", "dataset.limit=256", "runtime.chunk=8"]
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", small], check=False).returncode:
        pytest.skip("no right to mount a small file system")
    ballast = small / "ballast"
    try:
        run = tools.start(*words, "runtime.progress=false", f"runs_dir={small}")
        tools.until(lambda: list(small.rglob("part-*.parquet")))
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        code, said = tools.ended(run)
        assert code == 1
        (line,) = errors(said)
        assert "no space left for" in line
        assert "then run the same command to go on" in line
        parts = list(small.rglob("part-*.parquet"))
        assert 0 < len(parts) < 32
        assert not list(small.rglob("*.tmp"))
        ballast.unlink()
        stamps = {path: path.stat().st_mtime_ns for path in parts}
        terminal = site.sweep(small, *words, "runtime.shards=2", "runtime.shard=range(2)")
        said = site.ended(terminal)
        assert terminal.returncode == 0, said
        assert stamps == {path: path.stat().st_mtime_ns for path in parts}
        code, said = tools.ended(tools.start(*words, f"runs_dir={tmp_path}/alone"))
        assert code == 0, said
        assert tools.same(tools.records(small), tools.records(tmp_path / "alone"))
    finally:
        subprocess.run(["umount", small], check=True)
