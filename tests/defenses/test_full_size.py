"""The presets in full size, `*_cifar`: their constants, and a few steps of training, deployment and attack in small."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gauntlet.attacks.pgd import PGD
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.jobs.setup import KEYS
from gauntlet.models.stacked_resnet import StackedResNet
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.training.trainer import TrainingRun

DEFENSES = Path(CONF) / "defense"
NAMES = sorted(path.stem for path in DEFENSES.glob("*_cifar.yaml"))
SHARED = Path(os.environ.get("GAUNTLET_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "cifar10_jpeg"

SMALL = {
    "crossmax_cifar": ["model=resnet18", "model.width=4"],
    "pubdef_cifar": ["model=resnet18", "model.width=4"],
    "rift_cifar": ["defense.share=0.5", "model=resnet18", "model.width=4"],
    "mixednuts_cifar": [
        "defense.parts.accurate.model.depth=18", "defense.parts.accurate.model.width=4",
        "defense.parts.robust.model.depth=10", "defense.parts.robust.model.width=1",
    ],
    "crossmax_self_cifar": [
        "defense.parts.backbone.model.name=resnet18", "defense.parts.backbone.model.size=40",
        "defense.parts.backbone.model.weights=null",
        "defense.parts.probes.model.taps=[model.layer2.1,model.layer3.1,model.layer4.1]",
    ],
    "crossmax_self_resnet18_cifar": ["defense.parts.probes.model.taps=[model.layer3.0,model.layer4.1,model.avgpool]"],
}  # fmt: skip
"""Overrides that make the networks small."""


def configured(name, *overrides, dataset="cifar10"):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return checked(compose("run", [f"defense={name}", f"dataset={dataset}", *overrides]), KEYS)


def photographs(count):
    """Images of cifar10_jpeg where they are at hand, else noise; ids, pixels, labels."""
    if SHARED.is_dir():
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            node = compose("dataset/parquet", [f"dataset.path={SHARED}"]).dataset
        return build(node).split("test").read(slice(0, count))
    ids = torch.arange(count)
    return Batch(ids, Rng(0, ids).uniform((3, 32, 32)), ids % 10)


class Few:
    """A data set of a handful of images."""

    name, classes, channels, size = "few", 10, 3, 32

    def __init__(self, batch):
        self.batch = batch
        self.ids = batch.ids

    def split(self, part):
        return self

    def read(self, positions):
        return Batch(*(t[positions] for t in self.batch))


def test_every_preset_has_its_small_version():
    assert set(SMALL) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_deploys_and_is_attacked(name):
    cfg, few = configured(name, *SMALL[name]), Few(photographs(6))
    for part in cfg.defense.parts.values():
        part.weights = "included"
    defense, models = build(cfg.defense), {}
    for part_name, part in defense.parts.items():
        given = {other: models[other] for other in part.uses}
        module = part.first_network()
        run = TrainingRun(module, few, part.built_recipe(given), 0, torch.device("cpu"))
        run.collect()
        before = [weight.detach().clone() for weight in module.parameters()]
        given_before = {other: [tensor.clone() for tensor in net.state_dict().values()] for other, net in given.items()}
        run.epoch = max(1, run.recipe.epochs // 2)
        for player in run._players:
            run._update(few.read(slice(0, 6)))
            assert player.weights
        assert any(not torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))
        for other, kept in given_before.items():  # no drift: neither weights nor batch-norm statistics
            assert all(torch.equal(a, b) for a, b in zip(models[other].state_dict().values(), kept, strict=True))
        models[part_name] = module.eval().requires_grad_(False)
    victim = defense.deploy(models)
    assert victim.draws >= 20 or not victim.randomized
    heads = tuple(replace(head, draws=min(head.draws, 2)) for head in victim.surrogates[::4])
    victim = replace(victim, surrogates=heads, draws=min(victim.draws, 2))
    run = Evaluation(
        victim, ("pgd", PGD(steps=1)), Threat("linf", "8/255"), 10, protocol=Protocol("expected", 10), coverage="all"
    )
    rows = evaluate_chunk(run, few.read(slice(0, 2))).rows.to_pandas()
    assert rows["error"].isna().all()
    assert len(rows) == 2 * (2 + len(heads))


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_self_ensemble_has_the_published_constants(dataset):
    cfg = configured("crossmax_self_cifar", dataset=dataset).defense
    backbone, probes = cfg.parts.backbone, cfg.parts.probes
    recipe, classes = backbone.recipe, {"cifar10": 10, "cifar100": 100}[dataset]
    assert (backbone.model.name, backbone.model.size, backbone.model.classes) == ("resnet152", 224, classes)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (6, 128, 3.3e-5, 0)
    probing = probes.recipe
    assert (probing.epochs, probing.batch_size, probing.learning_rate, probing.weight_decay) == (1, 64, 3.3e-5, 0)
    assert len(probes.model.taps) == 7
    assert (cfg.k, cfg.draws) == (3, 20)
    stack = OmegaConf.to_container(cfg.stack)
    assert stack == recipe.objective.stack == probing.objective.stack
    assert (stack["sizes"], stack["shift"], stack["down"], stack["up"]) == ([32, 16, 8, 4], 3, 0.2, 0.2)
    assert (stack["contrast"], stack["colour"]) == ([0.7, 1.5], [0.5, 1.0])


def test_the_probes_learn_from_the_stack_that_is_deployed():
    cfg = configured("crossmax_self_cifar", "defense.parts.backbone.recipe.objective.stack.shift=2").defense
    assert cfg.parts.probes.recipe.objective.stack.shift == cfg.stack.shift == 2


def test_the_layers_are_those_of_the_released_code():
    """It counts the stem as one, then every block: its layer n is what n - 1 of them give."""
    with torch.device("meta"):
        model = StackedResNet("resnet152", 10).model
    operations = ["stem", *(f"layer{n}.{k}" for n in (1, 2, 3, 4) for k in range(len(getattr(model, f"layer{n}"))))]
    operations.append("avgpool")
    taps = configured("crossmax_self_cifar").defense.parts.probes.model.taps
    assert [f"model.{operations[layer - 1]}" for layer in (20, 30, 35, 40, 45, 50, 52)] == list(taps)
    with torch.device("meta"):
        assert StackedResNet("resnet152", 100)(torch.zeros(2, 12, 32, 32)).shape == (2, 100)
