"""train.py as a user runs it."""

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.commands.training_report import lines
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.jobs.training_job import train
from gauntlet.training.history import Epoch, History, Kept
from tests.program_server import call

QUICK = ["recipe.epochs=1", "runtime.progress=false", "model.width=4"]


def _call(*arguments):
    return call(*arguments, script="train.py", OMP_NUM_THREADS="1")


@pytest.mark.slow
def test_a_training_is_reported_and_not_done_again(tmp_path):
    first = _call(*QUICK, f"runs_dir={tmp_path}")
    assert first.returncode == 0, first.stderr
    for words in ("validation", "best", "last", "clean", "pgd", "1 epoch in", "weights: "):
        assert words in first.stdout
    (weights,) = tmp_path.rglob("best.safetensors")
    assert str(weights) in first.stdout
    assert weights.parent.parent == tmp_path / "_trained"
    written = weights.stat().st_mtime_ns
    again = _call(*QUICK, f"runs_dir={tmp_path}")
    assert again.stdout == first.stdout
    assert weights.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    done = _call("recipe.optimizer=adam", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: recipe.optimizer='adam' is unknown; choose one of sgd, nesterov, adamw; did you mean adamw?\n"
    )
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe=pgd_at", "+recipe.objective.attack.stepz=3"], "unknown option recipe.objective.attack.stepz"),
        (["recipe.epochs=many"], "recipe.epochs"),
        (["recipe.schedule=cyclic"], "cosine, step, linear, constant"),
        (["model.classes=100"], "model gives 100 classes, data set digits has 10"),
        (["recipe=adaptive_smoothing"], "run.py defense=adaptive_smoothing"),
        (["recipe=trades", "recipe.objective.attack.init=zero"], "attack.init"),
    ],
)
def test_mistakes_are_found_before_work_starts(arguments, words, tmp_path):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("train", [*arguments, f"runs_dir={tmp_path / 'runs'}"])
    with pytest.raises(UserError, match=words):
        train(cfg)
    assert not (tmp_path / "runs").exists()


def test_the_report_names_players_loads_and_the_epoch_of_an_alarm(tmp_path):
    quiet = Epoch(1, 2.0, 0.1, 0.9, 0.5, 10, 8, 1.0, fgsm=0.6, columns={"loss/router": 1.25, "load/0": 0.4})
    loud = replace(quiet, epoch=2, pgd=0.1, fgsm=0.8, overfitting=0.4, catastrophic=True)
    History([quiet, loud], Kept(1, 0.9, 0.5), Kept(2, 0.9, 0.1)).write(tmp_path)
    report = lines(tmp_path)
    assert "robust overfitting: best - last +40.00 points of pgd" in report
    assert "last epoch: loss/router 1.250, load/0 0.400" in report
    assert any(line.startswith("CATASTROPHIC OVERFITTING in epoch 2:") for line in report)
    History([replace(quiet, columns={})], Kept(1, 0.9, 0.5), Kept(1, 0.9, 0.5)).write(tmp_path)
    assert not any(line.startswith(("last epoch", "CATA")) for line in lines(tmp_path))
