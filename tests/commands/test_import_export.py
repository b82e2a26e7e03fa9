"""Adversarial examples from elsewhere are judged here, and those of a run can be taken elsewhere."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.numpy import save_file

from gauntlet.commands.export_examples import main as export
from gauntlet.commands.import_results import main as import_main
from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.jobs.attack_job import evaluate
from gauntlet.leaderboard.collect import collect, discover
from gauntlet.leaderboard.score import pools, score
from gauntlet.verification.verify import verify

COUNT = 24


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """A run of an attack that breaks little."""
    words = [
        "attack=fgsm",
        "threat.eps=0.3",
        "defense=trades",
        f"dataset.limit={COUNT}",
        "runtime.progress=false",
        "runtime.device=cpu",
    ]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*words, f"runs_dir={tmp_path_factory.mktemp('weak')}"])
    return evaluate(cfg, {"attack": "fgsm", "defense": "trades", "model": "small_cnn"}, "python run.py attack=fgsm").run


@pytest.fixture(scope="module")
def strong(tmp_path_factory):
    words = [
        "attack=apgd",
        "threat.eps=0.3",
        "defense=trades",
        f"dataset.limit={COUNT}",
        "runtime.progress=false",
        "runtime.device=cpu",
    ]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*words, f"runs_dir={tmp_path_factory.mktemp('strong')}"])
    return evaluate(cfg, {"attack": "apgd", "defense": "trades", "model": "small_cnn"}, "python run.py attack=apgd").run


@pytest.fixture
def exported(strong, tmp_path):
    assert export([str(strong.path), "--to", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as file:
        return dict(file)


def broken(run):
    rows = [row for table in run.read_parts() for row in table.to_pylist()]
    return {row["sample"] for row in rows if row["broken"] and row["stage"] != "clean"}


def imported(weak):
    return [run for run in find_runs(weak.path.parents[1]) if run.path.parent.name.startswith("imported")]


def test_an_export_holds_every_image_and_what_broke_it(strong, exported):
    clean = Digits().split("test").read(slice(0, COUNT))
    assert set(exported["ids"][exported["broken"]]) == broken(strong)
    assert len(broken(strong)) > 3
    still = ~exported["broken"]
    assert np.array_equal(exported["x_adv"][still], clean.x.numpy()[still])
    assert np.abs(exported["x_adv"] - clean.x.numpy()).max() <= 0.3 + 1e-6
    assert (exported["pred"] != exported["y"]).tolist() == (exported["broken"] | exported["clean_wrong"]).tolist()


def test_the_same_in_a_file_of_torch(strong, exported, tmp_path):
    assert export([str(strong.path), "--to", str(tmp_path / "x.pt")]) == 0
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert all(np.array_equal(found[name].numpy(), exported[name]) for name in exported)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".safetensors"])
def test_an_import_is_judged_counted_and_verified(ending, weak, exported, tmp_path, capsys):
    file = tmp_path / f"found{ending[1:]}{ending}"
    z = exported["x_adv"]
    if ending == ".npy":
        np.save(file, z)
    elif ending == ".npz":
        np.savez(file, x_adv=z)
    elif ending == ".pt":
        torch.save(torch.from_numpy(z), file)
    else:
        save_file({"adv": z}, file)
    assert import_main([str(file), "--for", str(weak.path), "--origin", "a friend"]) == 0
    assert "/a friend" in capsys.readouterr().out
    run = next(run for run in imported(weak) if run.path.parent.name == f"imported-found{ending[1:]}")
    assert broken(run) == set(exported["ids"][exported["broken"]].tolist())
    assert run.manifest()["access"] == "transfer"
    assert verify(run).verified
    root = weak.path.parents[4]
    evidence = [collect(one, root) for pool in pools(discover(root).runs) for one in pool]
    (entry,) = score(evidence)
    alone = score([one for one in evidence if one.run.place == str(weak.path.relative_to(root))])[0]
    assert entry.robust == COUNT - len(broken(weak) | broken(run)) < alone.robust
    assert not entry.reasons  # it is ranked by the run that had gradients
    assert any("without gradients" in each.reason for each in entry.elsewhere)


def test_rows_outside_the_threat_are_errors(weak, exported, tmp_path, capsys):
    z = exported["x_adv"].copy()
    row = int(np.flatnonzero(exported["broken"])[0])
    z[row] = np.clip(z[row] + 0.1, 0, 1)
    z[int(np.flatnonzero(exported["broken"])[1])] = np.nan
    np.save(tmp_path / "far.npy", z)
    assert import_main([str(tmp_path / "far.npy"), "--for", str(weak.path)]) == 1
    assert "candidate outside the threat" in capsys.readouterr().out
    run = next(run for run in imported(weak) if run.path.parent.name == "imported-far")
    assert len(broken(run)) == exported["broken"].sum() - 2
    assert run.manifest()["status"] == "failed"


def test_some_rows_with_their_ids(weak, exported, tmp_path):
    at = np.flatnonzero(exported["broken"])[:3][::-1]
    np.savez(tmp_path / "some.npz", x_adv=exported["x_adv"][at].transpose(0, 2, 3, 1), ids=exported["ids"][at])
    assert import_main([str(tmp_path / "some.npz"), "--for", str(weak.path)]) == 0
    run = next(run for run in imported(weak) if run.path.parent.name == "imported-some")
    assert broken(run) == set(exported["ids"][at].tolist())
    np.save(tmp_path / "rows.npy", exported["x_adv"][at])
    np.save(tmp_path / "ids.npy", exported["ids"][at])
    assert import_main([str(tmp_path / "rows.npy"), "--for", str(weak.path), "--ids", str(tmp_path / "ids.npy")]) == 0


SLIPS = {
    "too few": ({"x_adv": np.zeros((3, 1, 8, 8), np.float32)}, "3 examples for 24 images"),
    "another size": ({"x_adv": np.zeros((COUNT, 1, 9, 9), np.float32)}, "the images of the run are"),
    "another name": ({"foo": np.zeros((COUNT, 1, 8, 8), np.float32)}, "name the array of adversarial examples x_adv"),
    "an unknown id": ({"x_adv": np.zeros((1, 1, 8, 8), np.float32), "ids": np.array([999])}, "no sample 999"),
    "an id twice": ({"x_adv": np.zeros((2, 1, 8, 8), np.float32), "ids": np.array([1, 1])}, "listed twice"),
    "odd ids": ({"x_adv": np.zeros((2, 1, 8, 8), np.float32), "ids": np.array([0.5, 1])}, "whole numbers"),
    "whole numbers": ({"x_adv": np.zeros((COUNT, 1, 8, 8), np.int64)}, "images of type int64"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_files_that_do_not_fit_are_named(case, weak, tmp_path, capsys):
    arrays, line = SLIPS[case]
    np.savez(tmp_path / "x.npz", **arrays)
    assert import_main([str(tmp_path / "x.npz"), "--for", str(weak.path)]) == 1
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_code_in_a_file_is_not_run(weak, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "x.pt")
    assert import_main([str(tmp_path / "x.pt"), "--for", str(weak.path)]) == 1
    assert "holds more than tensors" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_png_says_what_rounding_undoes(strong, exported, tmp_path, capsys):
    assert export([str(strong.path), "--to", str(tmp_path / "pictures")]) == 0
    said = capsys.readouterr().out
    labels = json.loads((tmp_path / "pictures/labels.json").read_text())
    assert len(labels) == COUNT
    assert sum(entry["broken"] for entry in labels.values()) == exported["broken"].sum()
    z = np.stack([np.asarray(Image.open(tmp_path / "pictures" / name)) for name in sorted(labels)])[:, None] / 255
    clean = Digits().split("test").read(slice(0, COUNT))
    inside = np.abs(z - clean.x.numpy()).max((1, 2, 3)) <= 0.3 * (1 + 1e-6) + 1e-7
    remain = int(said.split(" are still inside")[0].split()[-1])
    assert 0 <= remain <= (inside & exported["broken"]).sum() < exported["broken"].sum()


def test_an_export_that_cannot_be_is_named(strong, weak, tmp_path, capsys):
    assert export([str(strong.path), "--to", str(tmp_path / "x.jpg")]) == 1
    assert "end it in .pt or .npz" in capsys.readouterr().err
    assert export([str(tmp_path), "--to", str(tmp_path / "x.pt")]) == 1
    assert "has no run.json" in capsys.readouterr().err
    assert isinstance(RunFolder(weak.path).manifest(), dict)
