"""A full disk, a failing disk and a kill at each change of a file, over every kind of run."""

import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.certification_job import certify
from gauntlet.jobs.training_job import train
from tests.assault.faults import FAULTS, survives

SMALL = ["dataset.limit=4", "runtime.chunk=2", "runtime.progress=false", "threat.eps=0.3"]
PGD = ["attack=pgd", "attack.steps=2"]
ATTACKS = {
    "attack": PGD,
    "suite": ["attack=pma_plus", "attack.stages.pma.steps=2", "attack.stages.apgd_t.steps=2"],
    "unbounded": ["attack=fmn", "attack.steps=3", "threat.eps=unbounded"],
    "randomized": [*PGD, "defense=randomized_ensemble", "protocol.draws=10"],
    "transfer": [*PGD, "+defense@surrogates.plain=trades"],
    "universal": ["attack=sga", "attack.images=20", "attack.batch=10", "attack.epochs=1"],
}
SMOOTHING = ["defense=gaussian_smoothing", "certifier=smoothing", "certifier.samples=20", "certifier.selection=10"]
TRAINING = ["recipe=standard", "recipe.epochs=2", "dataset.limit=64", "runtime.progress=false"]

EVERY = {"kill": 1, "full": 1, "failing": 3}
"""Name of a fault -> it is made at every so many changes; a disk that fails goes the way of a full one."""


def composed(name, runs, words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose(name, [*words, f"runs_dir={runs}"])


def attacking(kind):
    choices = {"attack": kind, "defense": "none", "model": "small_cnn"}
    return lambda runs: evaluate(composed("run", runs, [*SMALL, *ATTACKS[kind]]), choices, "python run.py")


def certifying(runs):
    choices = {"certifier": "smoothing", "defense": "gaussian_smoothing", "model": "small_cnn"}
    certify(composed("run", runs, [*SMALL, *SMOOTHING]), choices, "python run.py")


def training(runs):
    train(composed("train", runs, TRAINING))


RUNS = {**{kind: attacking(kind) for kind in ATTACKS}, "certification": certifying, "training": training}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_survives_a_fault_at_every_change_of_a_file(kind, fault, tmp_path, capsys):
    made = survives(RUNS[kind], tmp_path, every=EVERY[fault], faults=[fault])
    with capsys.disabled():
        sys.stdout.write(f"\n{kind}, {fault}: {made} faults\n")
