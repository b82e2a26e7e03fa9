"""Sweeps as job arrays on a real Slurm, with what befalls a cluster: the evidence is that of an undisturbed run."""

import os
import signal
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_twelve_job_survive_kills_a_cancel_and_a_drain(site, tools, alone, tmp_path):
    terminal = site.sweep(tmp_path, *tools.TWELVE)
    pid, first = tools.trainer(tmp_path)
    os.kill(pid, signal.SIGKILL)  # other jobs need this network, and go on training it

    pid, second = tools.worker(tmp_path)
    os.kill(pid, signal.SIGKILL)
    tools.until(lambda: site.waits(first) and site.waits(second))
    site.hurry()

    pid, cancelled = tools.worker(tmp_path, but={first, second})
    site.ask("scancel", cancelled)
    site.suspended(pid, lambda: cancelled not in site.queue())

    node = site.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N").strip()
    _, drained = tools.worker(tmp_path)
    site.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    site.ask("scontrol", "requeue", drained)
    tools.until(lambda: not site.running())
    site.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")

    said = site.ended(terminal)
    assert terminal.returncode == 1, said
    assert "sweep of 12: 11 done, 1 interrupted" in said
    assert any(word in said for word in ("CANCELLED", "Terminated", "Killed")), said  # the last line of its log
    again = site.sweep(tmp_path, *tools.TWELVE)
    said = site.ended(again)
    assert again.returncode == 0, said
    assert said.endswith("sweep of 12: 12 done\n")
    assert tools.same(tools.records(tmp_path), alone)
    logs = [path.read_text() for path in tmp_path.glob("_sweep/.submitit/*/*.err")]
    networks = [path.parent.name for path in tmp_path.glob("_trained/*/best.safetensors")]
    trained = sorted(sum(f"training {name}" in log for log in logs) for name in networks)
    assert trained == [1, 2], "by one process each, but for the one that was killed"
    state = tools.start(str(tmp_path), program="-m gauntlet status")
    assert state.communicate()[0].endswith("12 done\n")
    assert state.returncode == 0


def test_a_sweep_longer_than_the_largest_array_is_split(site, tools, tmp_path):
    assert "MaxArraySize            = 11" in site.ask("scontrol", "show", "config")
    jobs = ["attack=fgsm", "dataset.limit=8"]
    words = ",".join(f"0.{eps:02d}" for eps in range(1, 12))
    terminal = site.sweep(tmp_path, *jobs, f"threat.eps={words}")
    said = site.ended(terminal)
    assert terminal.returncode == 0, said
    assert said.endswith("sweep of 11: 11 done\n")
    arrays = {path.name.split("_")[0] for path in tmp_path.glob("_sweep/.submitit/*/*_submitted.pkl")}
    assert len(arrays) == 2


@pytest.fixture
def one(tools, tmp_path):
    """Options of one job, and its records from a process that nobody disturbs."""
    # Nothing breaks at this budget: every chunk takes all steps, on a fast machine too.
    job = ["attack=pgd", "attack.steps=1000", "dataset.limit=128", "runtime.chunk=8", "threat.eps=0.001"]
    code, said = tools.ended(tools.start(*job, f"runs_dir={tmp_path}/alone"))
    assert code == 0, said
    return job, tools.records(tmp_path / "alone")


def test_a_job_that_meets_its_time_limit_goes_on(site, tools, one, tmp_path):
    """It is slowed down until Slurm gives the signal, so that it needs no minute of work."""
    job, records = one
    runs, limit = tmp_path / "runs", ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40"]
    terminal = site.sweep(runs, *job, *limit)
    pid, _ = tools.worker(runs)
    logs = lambda: "".join(path.read_text() for path in runs.glob("_sweep/.submitit/*/*_log.*"))  # noqa: E731

    def told():
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        if "Caught signal" in logs():
            return True
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.95)
        return False

    tools.until(told)
    said = site.ended(terminal)
    assert terminal.returncode == 0, said
    assert "Requeued job" in logs()
    assert tools.same(tools.records(runs), records)


def test_a_job_that_is_preempted_goes_on(site, tools, one, tmp_path):
    job, records = one
    terminal = site.sweep(tmp_path / "runs", *job, "hydra.launcher.partition=low")
    pid, job = tools.worker(tmp_path / "runs")
    site.ask("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    site.suspended(pid, lambda: site.waits(job))
    said = site.ended(terminal)
    assert terminal.returncode == 0, said
    assert tools.same(tools.records(tmp_path / "runs"), records)
