"""The shipped networks: used by run.py, as good as they say, and made by the commands that they name."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gauntlet.commands.ship_weights import row
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build
from gauntlet.evidence.stable_names import to_record
from gauntlet.models import checkpoint
from gauntlet.training import history
from gauntlet.training.trained_network import TrainedNetwork
from gauntlet.training.weights_cache import ZOO, canonical

SHIPPED = sorted(ZOO.glob("*.safetensors"))
DEFENSES = sorted(path.stem for path in (Path(CONF) / "defense").glob("*.yaml") if not path.stem.endswith("_cifar"))
DEFENSES.remove("partitioned")  # fifty networks, trained in seconds each, of a certificate about their training
"""Those of which the networks for digits are shipped."""


def _composed(root, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose(root, list(overrides))
    OmegaConf.resolve(cfg)
    return cfg


@pytest.fixture
def no_training(monkeypatch):
    def fit(*args, **options):
        raise AssertionError("a network that should have been shipped is being trained")

    monkeypatch.setattr("gauntlet.training.trained_network.fit", fit)


def test_run_takes_the_shipped_networks(no_training, tmp_path):
    used = set()
    for name in DEFENSES:
        cfg = _composed("run", f"defense={name}")
        dataset, given = build(cfg.dataset), {}
        for label, part in build(cfg.defense).parts.items():
            key = part.key(dataset, given)
            if not part.uses or any(checkpoint.read_metadata(path)["key"] == key for path in SHIPPED):
                loaded = part.load(dataset, tmp_path, given=given)
                assert loaded.source.startswith("zoo "), f"{name}: {label} is {loaded.source}"
                given[label] = loaded.module
                used.add(loaded.source.removeprefix("zoo "))
    assert used == {path.stem for path in SHIPPED}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_readme_has_its_line(path):
    metadata = checkpoint.read_metadata(path)
    assert set(metadata) == {"key", "command", "config", "clean", "robust", "passes", "seconds", "torch"}
    assert row(path.stem, metadata) in (ZOO / "README.md").read_text().splitlines()
    assert str(Path.cwd()) not in json.dumps(metadata)


@pytest.mark.parametrize("path", [path for path in SHIPPED if "train.py" in checkpoint.read_metadata(path)["command"]])
def test_a_network_is_as_good_as_it_says_and_its_command_makes_it(path):
    metadata = checkpoint.read_metadata(path)
    python, script, *overrides = shlex.split(metadata["command"])
    assert (python, script) == ("python", "train.py")
    cfg = _composed("train", *overrides)
    part = TrainedNetwork(OmegaConf.to_container(cfg.model), OmegaConf.to_container(cfg.recipe), seed=cfg.seed)
    dataset = build(cfg.dataset)
    assert part.key(dataset) == metadata["key"]
    made = to_record({"model": part.model, "recipe": part.recipe, "seed": part.seed})
    assert canonical(json.loads(metadata["config"])) == canonical(made)
    module = build(cfg.model)
    checkpoint.load(module, path)
    split, device = dataset.split("validation"), torch.device("cpu")
    scores = build(cfg.recipe.selection).measure(module, split, part.seed, device, attack=True)
    assert scores.clean == pytest.approx(float(metadata["clean"]), abs=0.006)  # two images
    assert scores.pgd == pytest.approx(float(metadata["robust"]), abs=0.012)


def test_the_shipped_robust_networks_are_robust():
    metadata = checkpoint.read_metadata(ZOO / "digits_small_cnn_pgd_at.safetensors")
    assert float(metadata["clean"]) >= 0.97
    assert float(metadata["robust"]) >= 0.8


@pytest.mark.slow
def test_training_one_again_gives_the_same_accuracy(tmp_path):
    metadata = checkpoint.read_metadata(ZOO / "digits_small_cnn_standard.safetensors")
    cfg = _composed("train", *shlex.split(metadata["command"])[2:])
    part = TrainedNetwork(OmegaConf.to_container(cfg.model), OmegaConf.to_container(cfg.recipe), seed=cfg.seed)
    folder = part.train(build(cfg.dataset), tmp_path, progress=False)
    best = history.read(folder).best
    assert best.clean == pytest.approx(float(metadata["clean"]), abs=0.015)
    assert best.pgd == pytest.approx(float(metadata["robust"]), abs=0.1)
