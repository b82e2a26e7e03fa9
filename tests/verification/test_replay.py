"""Every kind of attack is re-run, or it is said why not; the stated probabilities are those of the draw."""

import json
import shutil
from dataclasses import replace
from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class

from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF, content
from gauntlet.config.validate import build
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evidence.adversarial_set import AdversarialSet
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.attack_setup import prepare, stocked
from gauntlet.threat_model.attack import traits_of
from gauntlet.verification import pass_plans, verify
from gauntlet.verification.pass_plans import pass_problems, phases_of, plan_of
from gauntlet.verification.row_checks import entries
from gauntlet.verification.sampling import EVERYTHING, Amount, chance_words, in_order, missed, unseen
from tests.verification.test_forgeries import CHOICES, composed, rewrite, survive


@pytest.mark.parametrize(("total", "looked", "changed"), [(20, 5, 3), (58, 16, 16), (9, 9, 1), (30, 1, 30), (7, 3, 4)])
def test_the_chance_is_hypergeometric(total, looked, changed):
    exact = comb(total - changed, looked) / comb(total, looked)
    assert missed(changed, looked, total) == pytest.approx(exact, abs=1e-12)
    least = unseen(looked, total, 0.01)
    assert missed(least, looked, total) <= 0.01 or least == total
    assert least == 1 or missed(least - 1, looked, total) > 0.01


def test_the_chance_is_that_of_the_draw():
    ids, changed = range(40), set(range(8))
    rounds = 2000
    lost = sum(not changed & set(in_order(ids, "sha256:0", str(nonce))[:6]) for nonce in range(rounds))
    expected = missed(8, 6, 40)
    assert abs(lost / rounds - expected) < 4 * np.sqrt(expected * (1 - expected) / rounds)


def test_the_words_name_the_numbers():
    assert "10 with 85.0%, 50 with 43.7%, 200 with 2.7%" in chance_words(16, 1000)
    assert chance_words(5, 5) == "nothing was left out, so no changed row can have been missed"


def done(folder, *words, attack, defense="trades"):
    small = ["dataset.limit=40", "runtime.chunk=16", f"attack={attack}", f"defense={defense}"]
    return evaluate(
        composed(folder, *small, *words), CHOICES | {"attack": attack, "defense": defense}, "python run.py"
    ).run


def shifted(table):
    """The rows of a part, with margins of survivors that are off by more than rounding."""
    survivors = (table["stage"] != "clean") & ~table["broken"]
    table.loc[survivors, "margin"] += np.float32(0.01)
    return table


KINDS = {
    "a suite with another norm": ("autoattack", "trades", "threat=l2", "threat.eps=0.5",
        "attack.stages.apgd_ce.steps=4", "attack.stages.apgd_t.steps=4", "attack.stages.fab_t.steps=4",
        "attack.stages.square.queries=20"),
    "several heads": ("pgd", "adaptive_smoothing", "attack.steps=4", "dataset.limit=20"),
    "a random defense": ("pgd", "barre", "protocol=vote", "attack.steps=3", "protocol.draws=8", "dataset.limit=20"),
    "a mixture": ("pgd", "randomized_ensemble", "attack.steps=4", "dataset.limit=20"),
    "queries": ("square", "trades", "attack.queries=40", "access=score"),
    "an unbounded threat": ("fmn", "trades", "attack.steps=20", "threat.eps=unbounded", "dataset.limit=20"),
    "phases": ("gauntlet", "trades", "dataset.limit=16"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_re_run_without_their_batch_mates(kind, tmp_path):
    attack, defense, *words = KINDS[kind]
    run = done(tmp_path, *words, attack=attack, defense=defense)
    report = verify.verify(run, amount=Amount.of("6"))
    assert report.problems == []
    assert report.replayed.samples == 6 < report.replayed.total
    assert 0 < report.replayed.equal <= report.replayed.rows > 5  # the rest: fewer batch-mates, other sums
    assert report.verified
    report = verify.verify(run, amount=EVERYTHING)
    assert report.problems == []
    assert report.replayed.equal == report.replayed.rows > 5  # among its own batch-mates: to the last bit


def test_an_attack_that_compares_samples_is_re_run_by_chunks(tmp_path):
    run = done(tmp_path, "attack.rounds=2", "attack.restarts=2", attack="a3")
    report = verify.verify(run, amount=Amount.of("6"))
    assert report.problems == []
    assert (report.replayed.units, report.replayed.all_units) == (1, 3)
    assert report.replayed.samples > 6
    assert "of 3 chunks" in report.replayed.chance
    assert report.replayed.equal == report.replayed.rows


def test_candidates_of_a_transfer_run_come_from_its_set(tmp_path):
    run = done(tmp_path, "+defense@surrogates.plain=none", "attack.steps=3", "threat.eps=0.3", attack="mi")
    report = verify.verify(run, amount=EVERYTHING)
    assert report.problems == []
    assert report.replayed.equal == report.replayed.rows
    (folder,) = (tmp_path / "_sets").iterdir()
    folder.rename(tmp_path / "gone")
    report = verify.verify(run, amount=EVERYTHING)
    assert (report.problems, report.replayed, report.level) == ([], None, "examples")
    assert any(note.startswith("nothing was re-run: the adversarial set") for note in report.notes)


def test_candidates_are_crafted_again_and_weak_ones_are_named(tmp_path):
    """A set whose candidates were made weaker, and a run that scored it honestly."""
    words = ["+defense@surrogates.plain=none", "attack.steps=3", "threat.eps=0.3"]
    first = done(tmp_path, *words, attack="mi")
    (folder,) = (tmp_path / "_sets").iterdir()
    made = AdversarialSet(folder)
    arrays = made.read(1)
    arrays["z"][:8] = arrays["x"][:8]
    arrays["pred"][:8] = arrays["clean_pred"][:8]
    made.write(1, arrays, 1.0)
    shutil.rmtree(first.path)
    run = done(tmp_path, *words, attack="mi")
    assert verify.verify(run).problems == []
    report = verify.verify(run, amount=EVERYTHING)
    named = [line for line in report.problems if "crafted again, the candidate is another one" in line]
    clean = run.read_part(1).to_pandas().query("stage == 'clean'").head(8)
    assert len(named) == len(report.problems) == (~clean["broken"]).sum() > 4
    described = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps(described | {"attack": {"_target_": "gauntlet.attacks.pgd.PGD"}}))
    assert "says another attack than the run" in "\n".join(verify.verify(run, amount=EVERYTHING).problems)


def test_a_universal_perturbation_is_taken_from_its_file_or_fitted_anew(tmp_path):
    run = done(tmp_path, "attack.images=64", "attack.batch=32", "attack.epochs=1", attack="spgd")
    before = sorted(tmp_path.rglob("*"))
    report = verify.verify(run, amount=Amount.of("4"))
    assert report.problems == []
    assert any("fitting it was not repeated" in note for note in report.notes)
    report = verify.verify(run, amount=EVERYTHING)
    assert report.problems == []
    assert not any("fitting it" in note for note in report.notes)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    facts = {stage: fit | {"digest": "sha256:0"} for stage, fit in run.manifest()["fit"].items()}
    run.update({**run.manifest(), "fit": facts})
    assert "the universal perturbation of" in "\n".join(verify.verify(run, amount=Amount.of("4")).problems)


def test_other_sums_are_rounding_and_other_verdicts_are_not(tmp_path):
    """A run without BN-fused copies, called one with them: the same verdicts, within rounding."""
    run = done(tmp_path, "runtime.fold=false", "attack.steps=20", "threat.eps=0.25", attack="pgd")
    manifest = run.manifest()
    manifest["config"]["runtime"]["fold"] = True
    run.update(manifest)
    assert verify.verify(run, amount=EVERYTHING).problems == []

    rewrite(run, shifted)
    assert verify.verify(run).problems == []
    assert "re-run, margin is" in "\n".join(verify.verify(run, amount=EVERYTHING).problems)


def test_a_long_run_of_all_steps_is_replayed_by_one_that_ends_where_iterates_return(tmp_path, monkeypatch):
    """As runs of 0.1.0 are; what the rows say of the survivors still counts."""
    with monkeypatch.context() as before:
        before.setattr(PGD, "LONG", 10**9)
        run = done(tmp_path, "attack.steps=96", "dataset.limit=20", attack="pgd")
    survivors = run.read_part(0).to_pandas().query("stage == 'pgd/true' and not broken")
    assert set(survivors["backwards"]) == {96}
    report = verify.verify(run, amount=EVERYTHING)
    assert report.problems == []
    assert report.replayed.equal < report.replayed.rows  # some made fewer passes now

    rewrite(run, shifted)
    assert "re-run, margin is" in "\n".join(verify.verify(run, amount=EVERYTHING).problems)


def test_other_versions_are_named_beside_a_row_that_differs(tmp_path):
    run = done(tmp_path, "attack.steps=5", "threat.eps=0.35", attack="pgd")
    rewrite(run, lambda table: survive(table, passes=(6, 5)), keep_examples=False)
    run.update({**run.manifest(), "versions": run.manifest()["versions"] | {"torch": "9.9"}})
    said = "\n".join(verify.verify(run, amount=EVERYTHING).problems)
    assert "the run states torch 9.9, here" in said
    assert "check it there before calling it forged" in said


def test_a_run_of_another_version_of_its_attack_is_not_re_run_and_it_is_said(tmp_path):
    run = done(tmp_path, "attack.steps=6", "threat=l1", "threat.eps=1", attack="pgd")
    assert verify.verify(run, amount=Amount.of("6")).problems == []
    manifest = run.manifest()
    assert manifest.pop("revisions") == {"attack": 2}
    run.update(manifest)
    report = verify.verify(run, amount=Amount.of("6"))
    assert all("config_hash" in line or line.startswith("the folder") for line in report.problems)
    assert "nothing was re-run: another version of the attack made the run (the first)" in report.notes


def test_without_stored_examples_a_full_re_run_verifies(tmp_path):
    run = done(tmp_path, "attack.steps=5", "runtime.keep=none", attack="pgd")
    assert not verify.verify(run, amount=Amount.of("6")).verified
    assert verify.verify(run, amount=EVERYTHING).verified


ATTACKS = Path(CONF) / "attack"
SHORT = {"steps": 4, "targets": 3, "queries": 30, "restarts": 1, "turns": 2, "trial": 20, "rounds": 3, "round_steps": 4}


def target(name):
    node = content(ATTACKS / f"{name}.yaml")
    return node.get("_target_") or target(node["defaults"][0])


@cache
def prepared(*threat):
    """A defense and images under a threat: the same for every attack, and long to prepare."""
    return prepare(composed("unused", "defense=trades", "dataset.limit=12", *threat), CHOICES, "")


PLANNED = {f"{kind.__module__}.{kind.__name__}" for kind in pass_plans._PLANS}


@pytest.mark.parametrize(
    "name", [n for n in sorted(path.stem for path in ATTACKS.glob("*.yaml")) if target(n) in PLANNED]
)
@pytest.mark.parametrize(
    ("norm", "threat"),
    [("linf", "threat.eps=0.1"), ("l1", "threat=l1 threat.eps=1"), ("patch", "threat=patch attack=patch_pgd")],
)
def test_no_shipped_attack_contradicts_its_plan(name, norm, threat):
    if norm not in traits_of(get_class(target(name))()).norms:
        pytest.skip(f"{name} is not defined for {norm}")
    node = content(ATTACKS / f"{name}.yaml")
    short = [f"attack.{key}={min(most, node[key])}" for key, most in SHORT.items() if isinstance(node.get(key), int)]
    job = prepared(*threat.split())
    with initialize_config_dir(CONF, version_base=None):
        attack = stocked(build(compose(f"attack/{name}", short).attack), job.split)
    run = replace(job.evaluation, attack=(name, attack))
    plans = {stage.name: (plan_of(stage, run), phases_of(stage.attack)) for stage in run.stages}
    assert all(plan for plan, _ in plans.values())
    table = evaluate_chunk(run, job.split.read(slice(0, 12))).rows.to_pandas()
    table["error"] = table["error"].astype(object).where(table["error"].notna(), None)
    attacked = [row for row in entries(table) if row.stage in plans]
    assert attacked
    for row in attacked:
        plan, phases = plans[row.stage]
        assert list(pass_problems(row, plan)) == []
        assert getattr(row, "phase", None) in (phases or (None,))
