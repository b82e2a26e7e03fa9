"""A certification on disk: the same rows in any pieces, resumed, sharded, killed, and refused in one line."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.certification.certifier import Certificates, Certifier
from gauntlet.commands.certification_report import certificate_lines
from gauntlet.commands.status import lines
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs import certification_job
from gauntlet.jobs.certification_job import certify
from gauntlet.metrics.certificate_summary import summary
from tests.program_server import call, start

CHOICES = {"certifier": "smoothing", "defense": "gaussian_smoothing", "model": "small_cnn"}
ROOT = Path(__file__).parents[2]


def rows(run):
    """All rows of a run; NaN as text, to be equal to itself."""
    return [str(row) for table in run.read_parts() for row in table.to_pylist()]


def run(folder, *overrides, choices=CHOICES):
    GlobalHydra.instance().clear()
    names = [f"{group}={name}" for group, name in choices.items()]
    quick = ["certifier.samples=60", "certifier.selection=10", "dataset.limit=12", "runtime.chunk=5"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*names, *quick, f"runs_dir={folder}", "runtime.progress=false", *overrides])
    return certify(cfg, choices, "python run.py certifier=smoothing")


def test_the_same_rows_however_the_work_is_cut(tmp_path):
    whole = run(tmp_path / "a")
    assert whole.manifest["status"] == "done"
    assert whole.manifest["kind"] == "certificate"
    assert whole.run.path.parts[-5:-1] == ("digits", "l2-1.0", "gaussian_smoothing", "smoothing")
    told = rows(whole.run)
    for shard in (1, 0):
        part = run(tmp_path / "b", "runtime.shards=2", f"runtime.shard={shard}", "runtime.batch_size=33")
        assert part.run.present() == ({1} if shard else {0, 1, 2})
    assert rows(part.run) == told
    part.run.part_path(1).unlink()
    again = run(tmp_path / "b")
    assert rows(again.run) == told
    assert again.manifest["status"] == "done"
    assert run(tmp_path / "b").summary.samples == 12


def test_a_damaged_part_is_done_again(tmp_path):
    done = run(tmp_path)
    told = rows(done.run)
    done.run.part_path(0).write_bytes(b"no parquet")
    assert rows(run(tmp_path).run) == told
    assert list(done.run.path.glob("records/*.damaged"))


def test_a_row_says_all_that_the_certificate_rests_on(tmp_path):
    done = run(tmp_path)
    table = done.run.read_part(0)
    row = table.to_pylist()[0]
    assert (row["kind"], row["confidence"], row["trials"], row["samples_used"]) == ("sound_prob", 0.999, 60, 70)
    assert len(row["counts"]) == len(row["lower"]) == 1
    assert row["error"] is None
    assert row["correct"] == (row["predict"] == row["label"])
    total = summary(done.run)
    assert total.samples_used == 12 * 70
    told = "\n".join(certificate_lines(done))
    assert "fails with probability at most 0.001" in told
    assert "70 draws" in told
    (bins, shares) = (told.partition(head)[2].partition("\n")[0] for head in ("votes p_A", "images          "))
    assert bins.split()[0] == "wrong"
    assert sum(float(word[:-1]) for word in shares.split("   a tenth")[0].split()) == pytest.approx(100, abs=0.05)


def test_a_certifier_that_crashes_certifies_nothing_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("gauntlet.certification.smoothing.count", lambda *_: 1 / 0)
    done = run(tmp_path)
    assert done.manifest["status"] == "failed"
    assert done.manifest["failures"] == ["ZeroDivisionError: division by zero"]
    assert (done.summary.correct, done.summary.errors) == (0, {"ZeroDivisionError: division by zero": 12})
    monkeypatch.undo()
    assert run(tmp_path).manifest["status"] == "done"


def test_a_network_that_cannot_be_read_leaves_a_failed_run_that_says_why(tmp_path, monkeypatch):
    def refuses(*_):
        raise UserError("bounds do not support stack")

    monkeypatch.setattr("gauntlet.certification.smoothing.count", refuses)
    with pytest.raises(UserError, match="do not support stack"):
        run(tmp_path)
    (found,) = lines(tmp_path)
    assert (found.state, found.present) == ("failed", 0)
    assert found.remark == "bounds do not support stack"
    assert found.command == "python run.py certifier=smoothing"
    monkeypatch.undo()
    assert run(tmp_path).manifest["status"] == "done"
    assert lines(tmp_path)[0].state == "done"


def test_a_refusal_after_the_first_chunk_leaves_a_run_that_goes_on(tmp_path, monkeypatch):
    run(tmp_path)
    made = next(iter(tmp_path.rglob("part-00001.parquet")))
    made.unlink()

    def refuses(*_):
        raise UserError("no space left")

    monkeypatch.setattr("gauntlet.certification.smoothing.count", refuses)
    with pytest.raises(UserError, match="no space"):
        run(tmp_path)
    assert lines(tmp_path)[0].state == "interrupted"


@dataclass(frozen=True)
class Reads:
    """Takes the label for its prediction, where it is given."""

    sees_label: bool
    kind: ClassVar = "sound_det"
    norms: ClassVar = ("l2",)
    whole: ClassVar = False
    confidence: ClassVar = 1.0

    def check(self, victim, threat): ...

    def __call__(self, victim, x, y, *, threat, rng, work):
        zeros = torch.zeros(len(x))
        assert len(x) <= work.batch_size
        return Certificates.proven(zeros.long() - 1 if y is None else y, zeros + 0.5, zeros, zeros)


def test_only_a_certifier_that_says_so_sees_labels(tmp_path, monkeypatch):
    for seen in (True, False):
        certifier: Certifier = Reads(seen)
        build = certification_job.build
        monkeypatch.setattr(
            certification_job,
            "build",
            lambda node, c=certifier, b=build: c if "Smoothing" in str(node.get("_target_")) else b(node),
        )
        done = run(tmp_path / str(seen), "runtime.batch_size=4")
        assert done.summary.correct == (12 if seen else 0)
        assert done.manifest["certificate"]["sees_label"] is seen
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("choices", "overrides", "why"),
    [
        ({"defense": "none"}, [], "defense=gaussian_smoothing"),
        ({"certifier": "dual_smoothing"}, [], "dual"),
        ({"certifier": "mixing"}, [], "smoothed_mixing"),
        ({"certifier": "mixing", "defense": "adaptive_smoothing"}, [], "smoothed_adaptive"),
        ({"certifier": "mixing", "defense": "smoothed_mixing"}, ["defense.alpha=0.5"], r"above 0\.5"),
        ({}, ["threat=linf"], "no certificate for threat=linf"),
        ({}, ["threat=l1"], "take threat=l2"),
        ({}, ["attack=pgd"], "attacks or certifies"),
        ({}, ["certifier.alpha=2"], r"certifier\.alpha"),
        ({}, ["defense.sigma=0"], "sigma"),
        ({}, ["certifier.samples=4"], "no radius above 0"),
        ({}, ["certifier.rule=decide", "threat.eps=unbounded"], "needs a radius"),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(tmp_path, choices, overrides, why):
    with pytest.raises(UserError, match=why) as caught:
        run(tmp_path, *overrides, choices=CHOICES | choices)
    assert "\n" not in str(caught.value)


def test_votes_of_bands_make_a_run_without_draws(tmp_path):
    GlobalHydra.instance().clear()
    choices = {"certifier": "patches", "defense": "band_smoothing"}
    names = [f"{group}={name}" for group, name in choices.items()]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*names, "dataset.limit=6", f"runs_dir={tmp_path}", "runtime.progress=false"])
    done = certify(cfg, choices, "python run.py certifier=patches")
    for row in done.run.read_part(0).to_pylist():
        assert (row["kind"], row["confidence"], row["samples_used"], row["forwards"]) == ("sound_det", 1.0, 0, 8)
        assert row["trials"] == 8 >= row["counts"][0]
    told = "\n".join(certificate_lines(done))
    assert "each certificate is a proof" in told
    assert "draws" not in told


def test_a_grid_shows_the_radii_that_were_asked_for(tmp_path):
    told = certificate_lines(run(tmp_path, "certifier.rule=grid", "certifier.radii=[0.5,0,0.25]"))
    (radii,) = (line for line in told if line.startswith("radius"))
    assert radii.split() == ["radius", "0", "0.25", "0.5"]


@pytest.mark.parametrize(("eps", "proven"), [(0.0001, True), (0.9, False)])
def test_bounds_tell_no_rate_of_forwards(tmp_path, capsys, eps, proven):
    choices = {"certifier": "ibp", "defense": "none", "model": "small_cnn"}
    GlobalHydra.instance().clear()
    names = [f"{group}={name}" for group, name in choices.items()]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*names, "dataset.limit=6", "threat=linf", f"threat.eps={eps}", f"runs_dir={tmp_path}"])
    told = certify(cfg, choices, "python run.py certifier=ibp")
    bar = capsys.readouterr().err
    assert "none ibp: 100%" in bar
    assert "forwards/s" not in bar
    lines = certificate_lines(told)
    (cost,) = (line for line in lines if line.startswith("cost"))
    assert "s per image; one forward of the deployed network, the rest is bounds" in cost
    assert "forwards/s" not in cost
    assert any(line.startswith(f"certified at {eps:g} ") for line in lines)
    assert any(line.startswith("least margin") for line in lines) == proven


def test_kill_9_leaves_whole_parts_and_the_same_command_goes_on(tmp_path):
    command = [
        "certifier=smoothing", "defense=gaussian_smoothing", f"runs_dir={tmp_path}",
        "certifier.samples=400", "runtime.chunk=4", "dataset.limit=80", "runtime.progress=false",
    ]  # fmt: skip
    process = start(*command)
    until = time.monotonic() + 200
    while not (parts := list(tmp_path.rglob("part-*.parquet"))) and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert parts
    before = RunFolder(parts[0].parents[1])
    assert before.manifest()["status"] == "running"
    for part in before.present():
        before.read_part(part)
    done = call(*command)
    assert done.returncode == 0, done.stderr
    assert before.manifest()["status"] == "done"
    assert len(before.present()) == 20
