"""Transfer runs: crafted on surrogates alone, kept as sets, scored on any target."""

import json
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.numpy import load_file
from safetensors.torch import save_file

from gauntlet.attacks.pgd import PGD
from gauntlet.commands import transfer_matrix
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import AdversarialSet
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.attack_setup import prepare
from gauntlet.metrics.transfer_rates import metrics, pairs_of
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.verification import verify

PLAIN, AT = "+defense@surrogates.plain=none", "+defense@surrogates.at=adversarial_training"


def composed(folder, attack, *overrides):
    GlobalHydra.instance().clear()
    small = ["dataset.limit=40", "runtime.chunk=16", "runtime.progress=false", "threat.eps=0.25"]
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [f"attack={attack}", *small, f"runs_dir={folder}", *overrides])


def choices(defense, attack):
    return {"attack": attack, "defense": defense, "model": "small_cnn"}


def run(folder, *overrides, defense="trades", attack="pgd", command="python run.py"):
    steps = ["attack.steps=5"] if attack == "pgd" else []
    cfg = composed(folder, attack, f"defense={defense}", *steps, *overrides)
    return evaluate(cfg, choices(defense, attack), command)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two surrogates against three targets, one of them a surrogate itself; and the folder."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, {name: run(folder, PLAIN, AT, defense=name) for name in ("trades", "none", "adversarial_training")}


def table(outcome):
    return outcome.run.read_part(0).to_pandas()


def test_each_pair_attacks_every_sample_that_the_target_has_right(swept):
    _, outcomes = swept
    for outcome in outcomes.values():
        manifest = outcome.manifest
        assert manifest["stages"] == ["clean", "pgd/at", "pgd/plain"]
        assert (manifest["access"], manifest["coverage"], manifest["status"]) == ("transfer", "correct", "done")
        for part in outcome.run.read_parts():
            frame = part.to_pandas()
            clean = frame[frame["stage"] == "clean"]
            right = set(clean["sample"][~clean["broken"]])
            for stage in manifest["stages"][1:]:
                mine = frame[frame["stage"] == stage]
                assert set(mine["sample"]) == right
                assert (mine["forwards"] == 6).all()  # of the surrogate: five steps and the last look
                assert (mine["backwards"] == 5).all()
                assert (mine["distance"] <= 0.25 * (1 + 1e-6)).all()


def test_a_sweep_over_targets_crafts_once(swept):
    folder, outcomes = swept
    made = {json.dumps(outcome.manifest["sets"], sort_keys=True) for outcome in outcomes.values()}
    assert len(made) == 1
    assert len([path for path in (folder / "_sets").iterdir() if (path / "set.json").exists()]) == 2
    assert not list((folder / "_sets").rglob("*.tmp"))


def test_candidates_are_crafted_for_all_samples_whatever_the_target(swept):
    folder, outcomes = swept
    for told in outcomes["trades"].manifest["sets"].values():
        made = AdversarialSet(folder / "_sets" / told["set"])
        assert sum(len(made.read(part)["sample"]) for part in made.present()) == 40


def test_what_is_scored_is_what_is_stored_bit_for_bit(swept):
    folder, outcomes = swept
    outcome = outcomes["none"]
    judged = load_file(outcome.run.adversarial_path(0))
    for number, stage in enumerate(outcome.manifest["stages"][1:]):
        made = AdversarialSet(folder / "_sets" / outcome.manifest["sets"][stage]["set"]).read(0)
        mine = judged["stage"] == number
        at = np.searchsorted(made["sample"], judged["sample"][mine])
        assert mine.any()
        assert judged["z"][mine].tobytes() == made["z"][at].tobytes()
        assert judged["x"][mine].tobytes() == made["x"][at].tobytes()


def test_the_target_itself_as_surrogate_gives_the_white_box_number(tmp_path):
    still = "attack.random_start=false"  # else the draws differ, since the stages have other names
    white, own = run(tmp_path, still, defense="none"), run(tmp_path, still, PLAIN, defense="none")
    found = [{row.sample for row in table(each).itertuples() if row.broken} for each in (white, own)]
    assert len(found[0]) > 5
    assert found[0] == found[1]
    assert own.summary.broken["pgd/plain"] == white.summary.broken["pgd/true"]
    (pair,) = pairs_of(own.run, own.manifest)
    assert pair.sources["plain"]["victim"] == own.manifest["victim"] == white.manifest["victim"]
    assert pair.rate == pair.shared_rate
    assert pair.white_box
    assert metrics([pair]) is None  # says nothing about transfer


def test_the_metrics_are_mean_strongest_and_union(swept):
    _, outcomes = swept
    outcome = outcomes["trades"]
    pairs = pairs_of(outcome.run, outcome.manifest)
    told = metrics(pairs)
    assert told is not None
    mean, strongest, union = told
    assert union == outcome.summary.robust / outcome.summary.samples
    assert mean == pytest.approx(sum(pair.accuracy for pair in pairs) / 2)
    assert union <= strongest.accuracy <= mean
    frame = outcome.run.read_part(0).to_pandas()
    assert {pair.stage: len(pair.right) - len(pair.survivors) for pair in pairs} == outcome.summary.broken
    assert all(pair.shared <= len(pair.right) for pair in pairs)
    assert all(0 < pair.mean_length <= 0.25 * 8 for pair in pairs)
    assert frame["error"].isna().all()


def test_such_a_run_is_verified_and_forgery_is_found(swept, tmp_path, capsys):
    _, outcomes = swept
    honest = outcomes["trades"].run
    assert verify.main([str(honest.path)]) == 0
    place = tmp_path.joinpath(*honest.path.parts[-5:])
    shutil.copytree(honest.path, place)
    forged = RunFolder(place)
    frame = forged.read_part(0).to_pandas()
    last = frame.index[frame["stage"] == "pgd/plain"][-1]
    frame["error"] = None
    forged.write_part(0, rows(frame.drop(last).to_dict("list")), {})
    told = forged.manifest()
    told["sets"]["pgd/plain"]["sources"]["plain"]["victim"] = "0" * 12
    forged.update(told)
    assert verify.main([str(place)]) == 1
    said = capsys.readouterr().out
    assert "(pgd/plain): there is no row" in said
    assert "run.json: sets is" in said


def test_a_damaged_part_is_crafted_again_and_the_same(swept, tmp_path):
    folder, outcomes = swept
    copy = tmp_path / "runs"
    shutil.copytree(folder / "_sets", copy / "_sets")
    made = AdversarialSet(copy / "_sets" / outcomes["none"].manifest["sets"]["pgd/plain"]["set"])
    before = made.part_path(0).read_bytes()
    made.part_path(0).write_bytes(before[:-50])
    again = run(copy, PLAIN, AT, defense="none")
    assert table(again).equals(table(outcomes["none"]))
    assert made.read(0)["z"].tobytes() == AdversarialSet(folder / "_sets" / made.path.name).read(0)["z"].tobytes()
    assert list(made.path.glob("*.damaged"))


def test_another_attack_seed_or_surrogate_is_another_set_and_another_chunk_is_not(swept, tmp_path):
    _, outcomes = swept
    told = outcomes["trades"].manifest["sets"]

    def sets(*overrides):
        cfg = composed(tmp_path, "pgd", "defense=trades", "attack.steps=5", PLAIN, AT, *overrides)
        return {k: v["set"] for k, v in prepare(cfg, choices("trades", "pgd"), "").manifest["sets"].items()}

    same = {stage: each["set"] for stage, each in told.items()}
    assert sets("runtime.chunk=7", "runtime.batch_size=3") == same
    for other in ("attack.steps=6", "seed=1", "threat.eps=0.2", "runtime.gradients=bfloat16"):
        assert not set(sets(other).values()) & set(same.values())
    changed = sets("+surrogates.plain.checkpoint=gauntlet/models/zoo/digits_small_cnn_trades.safetensors")
    assert changed["pgd/at"] == same["pgd/at"]
    assert changed["pgd/plain"] != same["pgd/plain"]


def test_the_checkpoint_of_the_root_is_the_targets_alone(swept, tmp_path):
    _, outcomes = swept
    weights = "checkpoint=gauntlet/models/zoo/digits_small_cnn_pgd_at.safetensors"
    cfg = composed(tmp_path, "pgd", "defense=trades", "attack.steps=5", PLAIN, AT, weights)
    manifest = prepare(cfg, choices("trades", "pgd"), "").manifest
    assert manifest["sets"] == outcomes["trades"].manifest["sets"]
    assert manifest["victim"] != outcomes["trades"].manifest["victim"]


def test_a_surrogate_may_have_a_model_of_its_own(tmp_path):
    weights = tmp_path / "narrow.safetensors"
    save_file(SmallCNN(10, 1, 8, width=8).state_dict(), weights)
    own = ["+model@surrogates.plain.model=small_cnn", "surrogates.plain.model.width=8"]
    cfg = composed(tmp_path, "pgd", PLAIN, *own, f"+surrogates.plain.checkpoint={weights}")
    job = prepare(cfg, choices("none", "pgd"), "")
    surrogate = job.crafters[0].craft.surrogates[0].model
    assert job.manifest["config"]["surrogates"]["plain"]["parts"]["model"]["model"]["width"] == 8
    assert job.manifest["config"]["defense"]["parts"]["model"]["model"]["width"] == 16
    sizes = [
        sum(p.numel() for m in v.modules for p in m.parameters()) for v in (surrogate.victim, job.evaluation.victim)
    ]
    assert sizes[0] < sizes[1]


def test_an_ensemble_is_one_stage(tmp_path):
    outcome = run(tmp_path, PLAIN, AT, attack="ens")
    assert outcome.manifest["stages"] == ["clean", "ens/ensemble"]
    (pair,) = pairs_of(outcome.run, outcome.manifest)
    assert set(pair.sources) == {"plain", "at"}
    made = AdversarialSet(tmp_path / "_sets" / pair.identity).read(0)
    assert made["clean_pred"].shape == (16, 2)


def test_targeted_attacks_are_crafted_too(tmp_path):
    three, one, none = (run(tmp_path, PLAIN, f"attack.targets={n}", attack="mi") for n in (3, 1, 0))
    for outcome, runs in ((three, 3), (one, 1), (none, 0)):
        rows = table(outcome)
        cost = rows[rows["stage"] == "mi/plain"][["forwards", "backwards"]].drop_duplicates().to_numpy().tolist()
        ranking, margins = min(runs, 1), runs if runs > 1 else 0
        assert cost == [[ranking + 10 * max(runs, 1) + margins, 10 * max(runs, 1)]]
        assert verify.verify(outcome.run).verified
    assert len({outcome.manifest["sets"]["mi/plain"]["set"] for outcome in (three, one, none)}) == 3


def test_a_targeted_run_crafts_towards_its_targets(tmp_path):
    aim = ["threat.goal=targeted", "attack.loss=margin", "dataset.limit=16", "threat.eps=0.5", "attack.step_size=0.3"]
    outcome = run(tmp_path, PLAIN, *aim, defense="none")  # its own surrogate
    rows = table(outcome)
    rows = rows[rows["stage"] == "pgd/plain"].set_index("sample")
    made = AdversarialSet(tmp_path / "_sets" / outcome.manifest["sets"]["pgd/plain"]["set"]).read(0)
    said = dict(zip(made["sample"].tolist(), made["pred"][:, 0].tolist(), strict=True))
    hit = [sample for sample, row in rows.iterrows() if said[sample] == row.target]
    assert len(hit) >= 4
    assert hit == [sample for sample, row in rows.iterrows() if row.broken]
    plain = run(tmp_path, PLAIN, *aim[1:], defense="none")
    assert plain.manifest["sets"] != outcome.manifest["sets"]
    assert verify.verify(outcome.run).verified
    for more, words in ((["threat.target=runner_up"], "asks the defense"), (["attack.targets=2"], "targets to 0")):
        with pytest.raises(UserError, match=words):
            run(tmp_path, PLAIN, *aim, *more, defense="none")


def test_a_set_from_elsewhere_is_scored_by_its_content(swept, tmp_path):
    folder, outcomes = swept
    told = outcomes["trades"].manifest["sets"]["pgd/plain"]
    place = tmp_path / "elsewhere"
    shutil.copytree(folder / "_sets" / told["set"], place)
    outcome = run(tmp_path, f"attack.path={place}", attack="stored")
    assert outcome.manifest["stages"] == ["clean", "stored/plain"]
    assert outcome.manifest["access"] == "transfer"
    assert outcome.summary.broken["stored/plain"] == outcomes["trades"].summary.broken["pgd/plain"]
    (pair,) = pairs_of(outcome.run, outcome.manifest)
    assert pair.mean_length is not None
    moved = shutil.copytree(place, tmp_path / "moved")
    again = run(tmp_path, f"attack.path={moved}", attack="stored")
    assert again.run.path == outcome.run.path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["threat.eps=0.2"], r"crafted for linf-0.25 in \[0.0, 1.0\], this run is about linf-0.2"),
        (["dataset.limit=41"], "lacks sample .* and 0 more"),
        (["dataset=digits", "dataset.limit=null"], "lacks sample"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(swept, tmp_path, overrides, said):
    folder, outcomes = swept
    place = folder / "_sets" / outcomes["trades"].manifest["sets"]["pgd/plain"]["set"]
    with pytest.raises(UserError, match=said):
        run(tmp_path, f"attack.path={place}", *overrides, attack="stored")


def test_other_images_and_other_data_are_refused(swept, tmp_path):
    folder, outcomes = swept
    place = tmp_path / "set"
    shutil.copytree(folder / "_sets" / outcomes["trades"].manifest["sets"]["pgd/plain"]["set"], place)
    made = AdversarialSet(place)
    arrays = made.read(0)
    arrays["x"] = arrays["x"].copy()
    arrays["x"][:, 0, 0, 0] += 1e-6
    made.write(0, arrays, 0.0)
    with pytest.raises(UserError, match="has another image or label for sample"):
        run(tmp_path, f"attack.path={place}", attack="stored")
    told = json.loads((place / "set.json").read_text())
    told["data"]["digest"] = "sha256:other"
    (place / "set.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="crafted from other data"):
        run(tmp_path, f"attack.path={place}", attack="stored")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["attack=square", PLAIN], r"square needs more of the target \(score\) than surrogates give"),
        (["attack=fab", PLAIN], "fab hands on only what it has seen fool its victim, and surrogates never answer"),
        (["attack=adaea", "attack.targets=3", PLAIN, AT], "attack.targets=3 is not defined for adaea"),
        (["access=score", PLAIN], "access=score and surrogates exclude each other"),
        (["access=transfer"], "use attack=stored, or give surrogates"),
        (["heads=true", PLAIN], "heads=deployed is about heads of the target"),
        (["attack=ens", PLAIN], "ens on plain is an ensemble of one"),
        (["attack=stored"], "attack.path is empty"),
        (["attack=stored", "attack.path=/nowhere"], "/nowhere is not an adversarial set"),
        (["+defense@surrogates.my-net=none"], "surrogates.my-net: the name must be a plain word"),
        (["+defense@surrogates.ensemble=none"], "the name must be a plain word, other than ensemble"),
        (["+surrogates.plain=3"], r"surrogates.plain is no defense; write \+defense@surrogates.plain=none"),
        ([PLAIN, "+surrogates.plain.steps=3"], "unknown option surrogates.plain.steps"),
        ([PLAIN, "+surrogates.plain.checkpoint=/nowhere.pt"], "surrogates.plain: there is no checkpoint /nowhere.pt"),
        ([PLAIN, "attack=stored", "attack.path=/x"], "stored needs more of the target"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, overrides, said):
    attack = next((text[7:] for text in overrides if text.startswith("attack=")), "pgd")
    rest = [text for text in overrides if not text.startswith("attack=")]
    with pytest.raises(UserError, match=said) as caught:
        prepare(composed(tmp_path, attack, *rest), choices("none", attack), "")
    assert "\n" not in str(caught.value)


def test_a_surrogate_of_other_classes_is_refused(tmp_path, monkeypatch):
    from gauntlet.defenses.none import Undefended
    from gauntlet.threat_model.victim import Victim

    def few(self, models):
        return Victim(lambda x, rng: torch.zeros(len(x), 7), ())

    monkeypatch.setattr(Undefended, "deploy", few)
    with pytest.raises(
        UserError, match=r"surrogates.plain gives scores of shape \[1, 7\] for one image; .* 10 classes"
    ):
        prepare(composed(tmp_path, "pgd", "defense=trades", PLAIN), choices("trades", "pgd"), "")


def test_the_matrix_lays_runs_side_by_side(swept, tmp_path, capsys):
    folder, outcomes = swept
    cells = tmp_path / "cells.csv"
    assert transfer_matrix.main([str(folder), "--csv", str(cells)]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("pgd/")]
    assert [line.split()[0] for line in lines] == ["pgd/at", "pgd/plain"]
    assert [line.count("*") for line in lines] == [1, 1]
    assert "strongest of none" in said
    header, *cells = cells.read_text().splitlines()
    assert len(cells) == 6
    columns = header.split(",")
    for cell in cells:
        values = dict(zip(columns, cell.split(","), strict=True))
        outcome = outcomes[values["target"]]
        stage = f"{values['attack']}/{values['source']}"
        assert int(values["broken"]) == outcome.summary.broken[stage]
        assert values["white_box"] == str(int(values["target_victim"] == values["source_victim"]))
    assert transfer_matrix.main([str(tmp_path)]) == 1
    assert "there is no finished transfer run below" in capsys.readouterr().err


def test_what_was_crafted_before_a_crash_is_kept(tmp_path, monkeypatch):
    small, real, calls = ("attack.steps=3", PLAIN), PGD.__call__, []

    def dies(self, head, x, y, **rest):
        calls.append(len(x))
        if len(calls) == 2:
            raise RuntimeError("the lights went out")
        return real(self, head, x, y, **rest)

    monkeypatch.setattr(PGD, "__call__", dies)
    with pytest.raises(UserError, match=r"crafting pgd/plain failed \(RuntimeError: the lights went out\)"):
        run(tmp_path, *small)
    (part,) = (tmp_path / "_sets").rglob("part-*.safetensors")
    before = part.stat().st_mtime_ns
    assert run(tmp_path, *small).manifest["status"] == "done"
    assert part.stat().st_mtime_ns == before
    assert calls == [16, 16, 16, 8]
