"""A run that measures distances, from the command to the verifier."""

import json
import math

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.numpy import load_file

from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import evaluate
from gauntlet.metrics.perturbation_size import read
from gauntlet.verification import verify


def made(folder, *overrides, name=None):
    GlobalHydra.instance().clear()
    small = ["dataset.limit=24", "runtime.chunk=10", "runtime.progress=false", "threat.eps=unbounded"]
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", [*small, f"runs_dir={folder}", *overrides])
    name = name or next(o.split("=")[1] for o in overrides if o.startswith("attack="))
    choices = {"attack": name, "defense": "none", "model": "small_cnn"}
    return evaluate(composed, choices, f"python run.py {' '.join(overrides)}")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"), "attack=fmn", "attack.steps=8")


def test_everything_breaks_somewhere_and_the_stored_examples_are_the_answers(outcome):
    run, total = outcome.run, outcome.summary
    assert run.path.parts[-4] == "linf-unbounded"
    assert (total.robust, total.errors) == (0, {})
    assert json.loads(run.manifest_path.read_text())["threat"]["radius"] is None
    answer = read(run)
    stored = [load_file(run.adversarial_path(chunk)) for chunk in sorted(run.present())]
    far = {
        int(sample): np.abs(z.astype(float) - x).max()
        for part in stored
        for sample, z, x in zip(part["sample"], part["z"], part["x"], strict=True)
    }
    right = answer.distance > 0
    assert sorted(far) == answer.ids[right].tolist()
    assert [far[i] for i in answer.ids[right]] == pytest.approx(answer.distance[right].tolist(), abs=1e-12)
    assert answer.distance.max() < 0.5


def test_it_is_verified_and_resumed(outcome):
    report = verify.verify(outcome.run)
    assert (report.problems, report.verified, report.checked) == ([], True, outcome.summary.clean)
    before = outcome.run.read_part(1)
    outcome.run.part_path(1).unlink()
    again = made(outcome.run.path.parents[4], "attack=fmn", "attack.steps=8")
    assert again.run.path == outcome.run.path
    assert again.run.read_part(1).equals(before)


def test_attacks_that_need_an_eps_say_so(tmp_path):
    with pytest.raises(UserError, match=r"finite threat\.eps.*attack=fmn") as caught:
        made(tmp_path, "attack=pgd")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"finite threat\.eps"):
        made(tmp_path, "attack=autoattack")
    with pytest.raises(UserError, match="not defined for threat=linf"):
        made(tmp_path, "attack=ddn")


def test_every_stage_of_a_suite_walks_and_the_nearest_counts(tmp_path):
    stages = ["attack._target_=gauntlet.attacks.suite.Suite", "~attack.steps", "~attack.step_size", "~attack.rate"]
    stages += ["~attack.last_rate", "+attack.stages.fmn={_target_: gauntlet.attacks.minimum_norm.fmn.FMN, steps: 4}"]
    stages += ["+attack.stages.pdpgd={_target_: gauntlet.attacks.minimum_norm.pdpgd.PDPGD, steps: 30}"]
    outcome = made(tmp_path, "attack=fmn", *stages, name="pair")
    answer, clean = read(outcome.run), outcome.summary.clean
    assert outcome.manifest["coverage"] == "correct"
    assert [cost["attacked"] for stage, cost in outcome.summary.cost.items() if stage != "clean"] == [clean, clean]
    far = {stage: {} for stage in outcome.manifest["stages"]}
    for table in outcome.run.read_parts():
        for row in table.to_pylist():
            far[row["stage"]][row["sample"]] = row["distance"] if row["broken"] else math.inf
    nearest = [min(far["fmn/true"][i], far["pdpgd/true"][i]) for i in answer.ids[answer.distance > 0]]
    assert answer.distance[answer.distance > 0].tolist() == pytest.approx(nearest)
    assert verify.verify(outcome.run).verified


@pytest.mark.parametrize(
    ("attack", "threat", "more"),
    [
        ("rays", "linf", []),
        ("hop_skip_jump", "linf", ["attack.draws=10"]),
        ("hop_skip_jump", "l2", ["attack.draws=10"]),
    ],
)
def test_attacks_on_decisions_end_on_finds_that_the_verifier_confirms(attack, threat, more, tmp_path):
    overrides = [f"attack={attack}", f"threat={threat}", "access=decision", "attack.queries=120", *more]
    outcome = made(tmp_path, *overrides)
    assert (outcome.summary.robust, outcome.summary.errors) == (0, {})
    spent = outcome.summary.cost[f"{attack}/true"]
    assert (spent["forwards"], spent["backwards"]) == (120 * outcome.summary.clean, 0)
    report = verify.verify(outcome.run)
    assert (report.problems, report.verified, report.checked) == ([], True, outcome.summary.clean)
    answer = read(outcome.run)
    assert np.isfinite(answer.distance).all()
    few = read(made(tmp_path, *overrides, "attack.queries=40").run)
    assert answer.distance.mean() < few.distance.mean()
