"""A run says which model it is about, by name and by what it is, and refuses one that is not what it declares."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gauntlet.commands.attack_report import lines
from gauntlet.config.shipped import CONF
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.jobs import clean_accuracy
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.model_description import model_name
from gauntlet.models import published_accuracy
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.threat_model.victim import Victim

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
    made = {"network": {"_target_": "nets.EfficientNet.from_name", "model_name": "lite0"}}
    assert named(choices=[("model", "wrapped")], model=made) == "EfficientNet lite0"
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
    run(tmp_path / "unchecked", "expected_clean=0")
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


def test_published_accuracies_are_known_by_entry_and_by_file(tmp_path):
    assert published_accuracy.of_entry("Carmon2019Unlabeled", "cifar10", "Linf") == pytest.approx(0.8969)
    assert published_accuracy.of_entry("Nobody", "cifar10", "Linf") is None
    assert published_accuracy.of_file("Carmon2019Unlabeled", "cifar10") == [pytest.approx(0.8969)]
    assert len(published_accuracy.of_file("Engstrom2019Robustness", "cifar10")) == 2  # one for each threat
    assert published_accuracy.of_file("Standard", "cifar10") == []  # the name of anybody's file
    place = tmp_path / "model_info" / "cifar10" / "Linf" / "New2030Better.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"clean_acc": "91.5"}))
    package = str(tmp_path / "robustbench" / "__init__.py")
    assert published_accuracy.of_entry("New2030Better", "cifar10", "Linf", package) == pytest.approx(0.915)
    assert published_accuracy.collected(tmp_path / "model_info") == {"cifar10": {"Linf": {"New2030Better": 91.5}}}


def test_a_file_that_is_called_after_an_entry_must_be_as_accurate_as_it(tmp_path):
    torch.manual_seed(0)
    torch.save(SmallCNN(10, 1, 8).state_dict(), tmp_path / "Carmon2019Unlabeled.pt")
    words = ["dataset.name=cifar10", f"checkpoint={tmp_path / 'Carmon2019Unlabeled.pt'}"]
    with pytest.raises(UserError, match=r"the 89\.69% that RobustBench publishes for Carmon2019Unlabeled is outside"):
        run(tmp_path, *words)
    run(tmp_path, *words, "expected_clean=0")


def test_images_for_the_check_are_spread_over_the_run():
    seen = []

    class Ordered:
        def __len__(self):
            return 3 * clean_accuracy.CHECKED

        def read(self, positions):
            seen.extend(positions)
            ids = torch.tensor(positions)
            return Batch(ids, torch.zeros(len(ids), 1), (ids >= len(self) // 2).long())

    victim = Victim(lambda x, rng: torch.tensor([1.0, 0.0]).expand(len(x), 2), ())
    declared = clean_accuracy.DeclaredAccuracy([0.5], "it")
    clean_accuracy.check_clean_accuracy(declared, victim, Ordered(), 0, torch.device("cpu"), 500)
    assert (seen[0], seen[-1], len(seen)) == (0, 3 * clean_accuracy.CHECKED - 1, clean_accuracy.CHECKED)


def test_a_run_that_is_done_takes_the_description_of_a_later_command(tmp_path):
    first = run(tmp_path)
    named = run(tmp_path, "name=ours", "paper=arXiv 0000.00000")
    assert named.run.path == first.run.path
    found = named.run.manifest()
    assert (found["name"]["model"], found["description"]["paper"]) == ("ours", "arXiv 0000.00000")
    assert found["config"]["name"] == "ours"
    assert found["status"] == "done"
    assert run(tmp_path).run.manifest() == found  # who says nothing changes nothing
