"""Forged, truncated and moved runs are not verified, and an honest one is."""

import copy
import errno
import io
import json
import os
import shutil
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from safetensors.numpy import load_file, save_file

from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.errors import UserError
from gauntlet.evidence import run_folder
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows
from gauntlet.jobs.attack_job import evaluate
from gauntlet.models import checkpoint
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.verification import verify

CHOICES = {"attack": "pgd", "defense": "none", "model": "small_cnn"}


@cache
def once_composed(*overrides):
    GlobalHydra.instance().clear()
    attack = [] if any(o.startswith("attack=") for o in overrides) else ["attack=pgd", "attack.steps=3"]
    small = [*attack, "dataset.limit=40", "runtime.chunk=16", "runtime.progress=false",
             "threat.eps=0.25"]  # fmt: skip
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*small, *overrides])


def composed(folder, *overrides):
    """A copy that a test may change; composing takes long."""
    cfg = copy.deepcopy(once_composed(*overrides))
    cfg.runs_dir = str(folder)
    return cfg


def made(folder, *overrides):
    return evaluate(composed(folder, *overrides), CHOICES, "python run.py attack=pgd").run


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(honest, tmp_path):
    """A copy, to forge, at its place below a runs folder."""
    place = tmp_path.joinpath(*honest.path.parts[-5:])
    shutil.copytree(honest.path, place)
    return RunFolder(place)


@pytest.fixture(scope="module")
def job(honest):
    return verify.rebuild(honest, honest.manifest())


@pytest.fixture
def rebuilt(monkeypatch, job):
    """Rebuilding takes most of the time, and gives the same where only rows or examples are forged."""
    monkeypatch.setattr(verify, "rebuild", lambda run, manifest, *given: job)


def problems(run):
    return "\n".join(verify.verify(run).problems)


def edit(run, **changes):
    run.update({**run.manifest(), **changes})


def forge(run, chunk, change):
    """Rewrite the rows of a chunk; `change` takes and returns a table of pandas."""
    table = change(run.read_part(chunk).to_pandas())
    table["error"] = table["error"].astype(object).where(table["error"].notna(), None)
    run.write_part(chunk, rows(table.to_dict("list")), {})


def forge_examples(run, chunk, change):
    path = run.adversarial_path(chunk)
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def test_an_honest_run_is_verified(run, capsys):
    assert verify.main([str(run.path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("verified (examples): ")
    assert "nothing was re-run: survivors are as the run states them" in said
    content = json.loads((run.path / "verification.json").read_text())
    assert content["verified"] is True
    assert content["checked"] == content["claimed"] > 10
    assert {"records_digest", "manifest_digest", "adversarial_digest"} <= set(content)
    assert not (run.path.parents[4] / "_trained").exists()


def robust(table):
    attacked = table["stage"] != "clean"
    return table.assign(
        broken=table["broken"] & ~attacked, pred=np.where(attacked, table["label"], table["pred"]).astype(np.int32)
    )


def test_targets_cannot_be_forged(tmp_path):
    """A targeted run is verified; its targets are those that the threat chooses, and only they count."""
    run = made(
        tmp_path, "attack=pgd", "attack.steps=3", "threat.eps=0.4", "threat.goal=targeted", "threat.target=random"
    )
    table = run.read_part(0).to_pandas()
    attacked = pd.concat([run.read_part(chunk).to_pandas() for chunk in range(3)])
    attacked = attacked[attacked["stage"] != "clean"]
    assert run.path.parts[-4] == "linf-0.4-targeted-random"
    assert run.manifest()["threat"]["target"] == "random"
    assert (attacked["broken"] == (attacked["pred"] == attacked["target"])).all()
    assert 0 < attacked["broken"].sum() < (attacked["pred"] != attacked["label"]).sum()
    assert ((attacked["margin"] <= 0) == attacked["broken"]).all()
    assert not verify.verify(run).problems
    chosen = table["sample"].iloc[0]

    def turn(table):
        mine = table["sample"] == chosen
        table.loc[mine, "target"] = (table["label"] + 1 + (table["target"] == (table["label"] + 1) % 10)) % 10
        return table

    forge(run, 0, turn)
    assert f"sample {chosen} (clean): the target is" in problems(run)
    forge(run, 0, lambda table: table.drop(columns="target"))
    assert "a run has targets where its attack is targeted" in problems(run)


def test_the_nearest_class_is_found_again(tmp_path):
    run = made(tmp_path, "attack=pgd", "attack.steps=2", "threat.goal=targeted", "threat.target=nearest")
    assert not verify.verify(run).problems
    forge(
        run,
        1,
        lambda table: table.assign(target=(table["target"] + 1 + (table["label"] == (table["target"] + 1) % 10)) % 10),
    )
    assert problems(run).count("which threat.target=nearest does not choose") == 16


def test_targets_of_a_column_belong_to_the_run(tmp_path):
    """The class that the data set says, in another column another run."""
    images = [io.BytesIO() for _ in range(6)]
    batch = Digits().split("test").read(slice(6))
    for image, file in zip(batch.x, images, strict=True):
        Image.fromarray((255 * image[0]).round().byte().numpy()).save(file, "PNG")
    column = [{"bytes": file.getvalue(), "path": None} for file in images]
    y = batch.y.numpy()
    content = {"image": column, "label": y, "one": (y + 1) % 10, "two": (y + 2) % 10, "bad": y}
    pq.write_table(pa.table(content), tmp_path / "test.parquet")
    data = ["dataset=parquet", f"dataset.path={tmp_path}", "dataset.channels=1", "dataset.size=8", "dataset.limit=6",
            f"checkpoint={tmp_path / 'w.safetensors'}", "threat.goal=targeted", "threat.target=column"]  # fmt: skip
    checkpoint.save(SmallCNN(10, 1, 8), tmp_path / "w.safetensors", {})
    one, two = (
        made(tmp_path / "runs", "attack=pgd", "attack.steps=2", *data, f"dataset.target={name}")
        for name in ("one", "two")
    )
    for run, step in ((one, 1), (two, 2)):
        table = run.read_part(0).to_pandas()
        assert (table["target"] == (table["label"] + step) % 10).all()
        assert not verify.verify(run).problems
    assert one.path != two.path
    assert one.manifest()["dataset"]["targets"] != two.manifest()["dataset"]["targets"]
    forge(one, 0, lambda table: table.assign(target=(table["label"] + 2) % 10))
    assert "threat.target=column does not choose" in problems(one)
    with pytest.raises(UserError, match="the target of sample 0 is its label"):
        made(tmp_path / "runs", *data, "dataset.target=bad")
    with pytest.raises(UserError, match=r"dataset\.target=COLUMN"):
        made(tmp_path / "runs", *data)


def test_broken_rows_cannot_be_called_robust(run, rebuilt):
    for chunk in range(3):
        forge(run, chunk, robust)
    assert "its row does not say broken" in problems(run)


def test_broken_rows_cannot_lose_their_examples(run, rebuilt):
    forge_examples(run, 0, lambda t: t.update({name: value[1:] for name, value in t.items()}))
    assert "no adversarial example is stored" in problems(run)
    run.adversarial_path(0).unlink()
    assert "part-00000.safetensors is not sound: it is missing" in problems(run)


def test_the_last_chunk_cannot_be_dropped(run, rebuilt):
    run.part_path(2).unlink()
    assert "chunk 2: its records are missing" in problems(run)
    run.adversarial_path(2).unlink()
    manifest = run.manifest()
    edit(run, chunks=2, dataset=manifest["dataset"] | {"samples": 32})
    said = problems(run)
    assert "run.json: dataset" in said
    assert "run.json: chunks" in said
    assert "chunk 2: its records are missing" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("victim", "0" * 12), ("config_hash", "0" * 12), ("heads", "true"), ("access", "score"), ("seed", 7),
        ("chunk", 40),
        ("stages", ["clean"]), ("stages", ["clean", "pgd/true", "pgd/robust"]), ("weights", {"model": "sha256:0"}),
    ],
)  # fmt: skip
def test_the_manifest_cannot_be_edited(run, rebuilt, key, value):
    edit(run, **{key: value})
    assert f"run.json: {key}" in problems(run)


def test_other_kinds_are_not_verified(run):
    edit(run, kind="training")
    with pytest.raises(UserError, match="attacks and certificates are verified"):
        verify.verify(run)


@pytest.mark.parametrize("changes", [{"radius": 0.05}, {"eps": "0.05"}, {"norm": "l2"}, {"high": 0.5}])
def test_the_threat_cannot_be_edited(run, rebuilt, changes):
    edit(run, threat=run.manifest()["threat"] | changes)
    assert "run.json: threat" in problems(run)


@pytest.mark.parametrize("change", [{"randomized": True}, {"forwards": 0.5}, {"parameters": 1}])
def test_the_card_cannot_be_edited(run, rebuilt, change):
    edit(run, card=run.manifest()["card"] | change)
    assert "card" in problems(run)


def test_the_heads_of_a_comparison_cannot_be_called_declared(tmp_path):
    run = made(tmp_path, "defense=mixing", "heads=true", "dataset.limit=4")
    manifest = run.manifest()
    edit(run, heads="declared", config=manifest["config"] | {"heads": "declared"})
    said = problems(run)
    assert "run.json: stages" in said
    assert "run.json: config_hash" in said


def test_a_manifest_that_does_not_speak_of_access_means_gradients(run):
    manifest = run.manifest()
    del manifest["access"], manifest["config"]["access"]
    run.update(manifest)
    assert not problems(run)


def test_an_attacker_without_gradients_cannot_be_called_one_with_them(tmp_path):
    run = made(tmp_path, "attack=square", "attack.queries=5", "access=score", "dataset.limit=4")
    manifest = run.manifest()
    assert manifest["access"] == "score"
    edit(run, access="gradient", config=manifest["config"] | {"access": "gradient"})
    assert "run.json: config_hash" in problems(run)


def test_the_configuration_cannot_be_edited(run):
    config = run.manifest()["config"]
    edit(run, config=config | {"attack": config["attack"] | {"steps": 300}})
    assert "run.json: config_hash" in problems(run)


def test_another_name_does_not_make_another_defense(run):
    edit(run, name=run.manifest()["name"] | {"defense": "trades"})
    assert "the folder is not the one of this run" in problems(run)
    place = run.path.parents[2] / "trades" / "pgd" / run.path.name
    shutil.copytree(run.path, place)
    assert "its defense is called trades, but is gauntlet.defenses.none.Undefended" in problems(RunFolder(place))


def test_the_folder_must_be_that_of_the_run(run):
    place = run.path.with_name("0" * 12)
    run.path.rename(place)
    assert "the folder is not the one of this run" in problems(RunFolder(place))


def first(table, stage):
    return table.index[table["stage"] == stage][0]


def spoil(column, value, stage):
    def change(table):
        table.loc[first(table, stage), column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil("distance", np.nan, "pgd/true"), "NaN or infinite"),
        (spoil("margin", np.inf, "clean"), "NaN or infinite"),
        (spoil("distance", 0.5, "pgd/true"), "outside the threat"),
        (spoil("stage", "fgsm/true", "pgd/true"), "no such stage"),
        (spoil("sample", 10**6, "clean"), "does not belong to this chunk"),
        (spoil("error", "crash", "pgd/true"), "the run is called done"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "there twice"),
        (lambda t: t.drop(first(t, "clean")), "there is no clean row"),
        (lambda t: t.drop(first(t, "pgd/true")), "there is no row"),
        (lambda t: t.assign(label=(t["label"] + 1).astype(np.int32)), "the record says"),
        (lambda t: t.assign(clean_pred=(t["clean_pred"] + 1).astype(np.int32)), "the record says"),
        (lambda t: t.assign(pred=(t["pred"] + 1).astype(np.int32)), "contradict each other"),
    ],
)
def test_rows_cannot_be_forged(run, rebuilt, change, words):
    forge(run, 1, change)
    assert words in problems(run)


def test_a_wrong_prediction_cannot_be_called_right(run, rebuilt):
    def change(table):
        clean = table["stage"] == "clean"
        return table.assign(
            clean_pred=table["label"], broken=table["broken"] & ~clean, pred=table["pred"].where(~clean, table["label"])
        )

    forge(run, 0, lambda t: t.assign(label=((t["label"] + 1) % 10).astype(np.int32)).pipe(change))
    assert "(clean): label" in problems(run)


def test_a_sample_cannot_be_in_two_chunks(run, rebuilt):
    other = run.read_part(0).to_pandas().iloc[:1]
    forge(run, 1, lambda t: pd.concat([t, other]))
    assert "does not belong to this chunk" in problems(run)


def test_a_broken_sample_is_not_attacked_again(run):
    from gauntlet.verification.row_checks import row_problems

    table = run.read_part(0).to_pandas()
    ids = table["sample"][table["stage"] == "clean"].tolist()
    assert not list(row_problems(table, ids, ["clean", "pgd/true"], 1))
    again = table[table["stage"] == "pgd/true"].assign(stage="pgd/robust")
    said = "\n".join(row_problems(pd.concat([table, again]), ids, ["clean", "pgd/true", "pgd/robust"], 1))
    assert "was broken before" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["z"].__setitem__(0, t["x"][0]), "predicts the true class"),
        (lambda t: t["z"].__setitem__(0, 1 - t["x"][0]), "exceeds eps"),
        (lambda t: t["z"].__setitem__((0, 0, 0, 0), np.nan), "NaN or infinite"),
        (lambda t: t["z"].__setitem__((0, 0, 0, 0), -0.01), "outside the box"),
        (lambda t: t["x"].__setitem__((0, 0, 0, 0), 0.49), "not the data set's"),
        (lambda t: t["stage"].__setitem__(0, 3), "stages that the run does not have"),
        (lambda t: t["sample"].__setitem__(0, t["sample"][1]), "stored twice"),
        (lambda t: t["sample"].__setitem__(0, 10**6), "does not say broken"),
        (lambda t: t.update(z=t["z"][:-1]), "is not sound"),
        (lambda t: t.pop("x"), "lacks x"),
    ],
)
def test_examples_cannot_be_forged(run, rebuilt, change, words):
    forge_examples(run, 0, change)
    assert words in problems(run)


def test_examples_of_no_chunk_are_named(run, rebuilt):
    shutil.copy(run.adversarial_path(0), run.adversarial_path(9))
    assert "part-00009.safetensors: adversarial examples of no chunk" in problems(run)


def test_without_stored_examples_nothing_is_verified(tmp_path, capsys):
    run = made(tmp_path, "runtime.keep=none")
    assert verify.main([str(run.path)]) == 1
    said = capsys.readouterr().out
    assert "no adversarial examples were stored (runtime.keep=none)" in said
    assert "0 adversarial examples and 40 clean predictions repeated" in said
    content = json.loads((run.path / "verification.json").read_text())
    assert (content["verified"], content["failed"]) == (False, 0)


def complaint(run, capsys):
    assert verify.main([str(run.path)]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_verifying_never_trains(run, capsys):
    config = run.manifest()["config"]
    config["defense"]["parts"]["model"]["recipe"]["epochs"] = 1
    edit(run, config=config)
    said = complaint(run, capsys)
    assert "the weights of model are gone" in said
    assert "python run.py attack=pgd" in said
    assert not (run.path.parents[4] / "_trained").exists()


@pytest.mark.parametrize(
    "content",
    [{"schema_version": 1}, "no config", "config of text", "config without threat", "no runtime", "no target"],
)
def test_a_poor_manifest_gets_one_line(run, content, capsys):
    manifest = json.loads(run.manifest_path.read_text())
    if content == "no config":
        del manifest["config"]
    elif content == "config of text":
        manifest["config"] = "none"
    elif content == "config without threat":
        del manifest["config"]["threat"]
    elif content == "no runtime":
        manifest["config"]["runtime"] = None
    elif content == "no target":
        del manifest["config"]["attack"]["_target_"]
    else:
        manifest = content
    run.manifest_path.write_text(json.dumps(manifest))
    assert "run.json" in complaint(run, capsys)


def test_an_unfinished_run_gets_one_line(run, capsys):
    edit(run, status="running")
    assert "is not finished" in complaint(run, capsys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_verdict_that_cannot_be_written_gets_one_line(run, rebuilt, number, monkeypatch, capsys):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_folder.os, "fsync", fail)
    assert verify.main([str(run.path)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("verified (examples): ")
    assert said.err.startswith("error: the verdict is not stored: ")
    assert "verification.json" in said.err
    assert ("free some" if number == errno.ENOSPC else "make that folder writable") in said.err
    assert "runs_dir=" not in said.err
    assert said.err.count("\n") == 1


def test_a_damaged_part_gets_one_line(run, rebuilt, capsys):
    run.part_path(0).write_bytes(b"PAR1")
    assert verify.main([str(run.path)]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "part-00000.parquet is damaged" in line)
    assert line.startswith("  chunk 0: ")


@pytest.mark.parametrize("eps", ["0.25", "0.001"])  # with finds, and without any
def test_the_same_command_heals_examples_cut_short(tmp_path, eps, capsys):
    run = made(tmp_path, "dataset.limit=16", f"threat.eps={eps}")
    assert bool(len(load_file(run.adversarial_path(0))["z"])) == (eps == "0.25")
    path = run.adversarial_path(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert verify.main([str(run.path)]) == 1
    assert "run the same command again to redo it" in capsys.readouterr().out
    made(tmp_path, "dataset.limit=16", f"threat.eps={eps}")
    assert path.read_bytes() == whole
    assert path.with_suffix(".damaged").read_bytes() == whole[:-40]
    assert verify.main([str(run.path)]) == 0
