"""A run says which model it is about, by name and by what it is, and refuses one that is not what it declares."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gauntlet.commands.attack_report import lines
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.model_description import model_name
from gauntlet.models.small_cnn import SmallCNN

FEW = ["attack=fgsm", "dataset.limit=40", "runtime.progress=false", "runtime.device=cpu"]


def run(tmp_path, *words, model="small_cnn"):
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*FEW, f"runs_dir={tmp_path / 'runs'}", *words])
    return evaluate(cfg, {"defense": "none", "attack": "fgsm", "model": model}, "")


def named(*, choices=(), **node):
    root = {"model": {"_target_": "m.Net", **node.pop("model", {})}, "checkpoint": None, "name": None, **node}
    return model_name(OmegaConf.create(root), dict(choices))


def test_the_default_name_is_of_architecture_and_file():
    assert named() == "net"
    assert named(choices=[("model", "resnet18")]) == "resnet18"
    assert named(choices=[("model", "resnet18")], checkpoint="runs/ema_best.pt") == "resnet18 ema_best"
    assert named(choices=[("model", "timm")], model={"name": "resnet10t"}, checkpoint="included") == "timm resnet10t"
    assert named(choices=[("model", "file")], model={"source": "a/net.py:make"}) == "net.py:make"
    assert named(choices=[("model", "onnx")], model={"path": "a/vit.onnx"}) == "onnx vit.onnx"
    inner = {"_target_": "robustbench.utils.load_model", "model_name": "Carmon2019Unlabeled"}
    assert named(choices=[("model", "wrapped")], model={"network": inner}) == "load_model Carmon2019Unlabeled"
    assert named(model={"_target_": "networks.load", "name": "at_resnet2b"}) == "load at_resnet2b"
    assert named(name="Ours", checkpoint="x.pt") == "Ours"


def test_what_the_user_says_is_on_record_and_outside_the_hash(tmp_path):
    said = ["name=Ours", "paper='arXiv 0000.00000'", "authors='A, B'", "link='https://x.org'", "extra_data=1M"]
    bare, told = run(tmp_path), run(tmp_path / "other", *said)
    assert told.manifest["name"]["model"] == "Ours"
    assert told.manifest["description"] == {
        "paper": "arXiv 0000.00000", "authors": "A, B", "link": "https://x.org", "extra_data": "1M",
    }  # fmt: skip
    assert "description" not in bare.manifest
    for key in ("config_hash", "victim"):
        assert bare.manifest[key] == told.manifest[key]


def test_the_report_begins_with_what_is_under_attack(tmp_path):
    torch.manual_seed(0)
    network = SmallCNN(10, 1, 8)
    torch.save({"net": network.state_dict(), "epoch": 3}, tmp_path / "mine.pt")
    outcome = run(tmp_path, f"checkpoint={tmp_path / 'mine.pt'}")
    first = lines(outcome)[1:7]
    parameters = sum(p.numel() for p in network.parameters())
    digest = outcome.manifest["weights"]["model"].removeprefix("sha256:")[:12]
    assert first[1].split() == ["name", "small_cnn", "mine"]
    assert first[2].startswith(f"model            SmallCNN of gauntlet/models/small_cnn.py, {parameters:,} parameters")
    assert f"weights {digest} (file mine.pt)" in first[2]
    assert first[3].split(maxsplit=1) == ["pixels", "as they are"]
    assert f"mine.pt: {len(network.state_dict())} tensors of net; left out: epoch" in first[4]


def test_another_clean_accuracy_than_declared_ends_the_run_before_the_attack(tmp_path):
    for declared in (0.3, 0.6):
        with pytest.raises(UserError, match=r"clean accuracy is .* of 40; 99.9 % interval") as caught:
            run(tmp_path, f"expected_clean={declared}")
        assert f"expected_clean={declared:g} is outside" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "runs").rglob("run.json"))
    with pytest.raises(UserError, match="must be a share of images"):
        run(tmp_path, "expected_clean=89")
    bare = run(tmp_path)
    declared = run(tmp_path / "other", "expected_clean=0.97")
    assert declared.manifest["config_hash"] == bare.manifest["config_hash"]
    assert json.loads(json.dumps(declared.manifest["config"]))["expected_clean"] == 0.97


def test_a_key_without_a_file_or_without_a_network_that_takes_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="give checkpoint=FILE with it"):
        run(tmp_path, "checkpoint_key=ema")
    with pytest.raises(UserError, match="reaches no network of the defense"):
        run(tmp_path, "checkpoint_key=ema", "checkpoint=x.pt", "~defense.parts.model.weights_key")


def test_the_key_reaches_the_file_and_not_the_hash(tmp_path):
    torch.manual_seed(0)
    first, second = SmallCNN(10, 1, 8).state_dict(), SmallCNN(10, 1, 8).state_dict()
    torch.save({"model": first, "ema": second}, tmp_path / "two.pt")
    torch.save(second, tmp_path / "one.pt")
    with pytest.raises(UserError, match="holds 2 sets of weights: model, ema"):
        run(tmp_path, f"checkpoint={tmp_path / 'two.pt'}")
    chosen = run(tmp_path, f"checkpoint={tmp_path / 'two.pt'}", "checkpoint_key=ema")
    alone = run(tmp_path / "other", f"checkpoint={tmp_path / 'one.pt'}")
    assert chosen.manifest["config_hash"] == alone.manifest["config_hash"]
