"""What version 0.1.0 left on disk is continued, verified and shown under the same hashes.

`data_0_1_0/` is a runs folder that 0.1.0 wrote, by the commands that its run.json files hold, and by

    python train.py recipe=standard recipe.epochs=1 model.width=4 runs_dir=runs runtime.progress=false
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.certification_job import certify
from gauntlet.jobs.training_job import train
from gauntlet.leaderboard.__main__ import main as board
from gauntlet.verification.verify import main as verify

OLD = Path(__file__).parent / "data_0_1_0"
RUNS = sorted(path.parent.relative_to(OLD) for path in OLD.rglob("run.json"))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A copy that the test may write to, as `runs` of the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, "runs", ignore=shutil.ignore_patterns("targets.txt"))
    return Path("runs")


def composed(words, name="run"):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose(name, words)


def contents(folder):
    """Every file of evidence below a folder with its bytes, locks left out."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"}


def test_all_kinds_of_run_are_there():
    assert [path.parts[3] for path in RUNS] == ["smoothing", "pma", "fgsm", "pgd", "mi", "fmn"]
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 300 * 1024


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.parts[3])
def test_the_same_command_finds_the_run_done(run, runs):
    manifest = json.loads((runs / run / "run.json").read_text())
    before = contents(runs)
    words = shlex.split(manifest["command"])[2:]
    name = manifest["name"]
    choices = {key: name[key] for key in ("defense", "model", "attack", "certifier") if key in name}
    work = certify if manifest["kind"] == "certificate" else evaluate
    done = work(composed(words), choices, manifest["command"])
    assert done.run.path == runs / run
    assert done.manifest["config_hash"] == manifest["config_hash"] == run.name
    assert done.manifest["victim"] == manifest["victim"]
    assert contents(runs) == before  # nothing was attacked, trained or written anew


def test_a_chunk_that_is_gone_is_done_again_with_the_same_records(runs):
    """But for the last bits of float32 sums, which another processor may round otherwise."""
    (run,) = [run for run in RUNS if run.parts[3] == "pgd"]
    part = runs / run / "records" / "part-00000.parquet"
    manifest, before = json.loads((runs / run / "run.json").read_text()), part.read_bytes()
    part.unlink()
    choices = {"defense": "none", "model": "small_cnn", "attack": "pgd"}
    evaluate(composed(shlex.split(manifest["command"])[2:]), choices, manifest["command"])
    import pandas as pd

    again = pd.read_parquet(part)
    part.write_bytes(before)
    pd.testing.assert_frame_equal(again, pd.read_parquet(part), rtol=1e-4, atol=1e-5)


def test_a_trained_network_is_found(runs):
    before = contents(runs)
    words = ["recipe=standard", "recipe.epochs=1", "model.width=4", "runs_dir=runs", "runtime.progress=false"]
    assert train(composed(words, "train")) == runs / "_trained" / "digits-smallcnn-standard-478117cb6f6b"
    assert contents(runs) == before


def test_the_runs_are_verified(runs, capsys):
    code, (said, errors) = verify([str(runs)]), capsys.readouterr()
    assert code == 0, said + errors
    attacks = [run for run in RUNS if run.parts[3] != "smoothing"]
    for run in attacks:
        assert json.loads((runs / run / "verification.json").read_text())["failed"] == 0, said


def test_the_board_shows_the_runs(runs, capsys):
    assert board(["--runs", str(runs), "--out", "site"]) == 0, capsys.readouterr().err
    page = "".join(path.read_text() for path in Path("site").rglob("*") if path.suffix in (".html", ".json", ".csv"))
    for run in RUNS:  # a certificate stands by its name
        assert (run.name if run.parts[3] != "smoothing" else "gaussian_smoothing") in page, run
