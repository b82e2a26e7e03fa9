"""The recipes in full size: their constants, and a few steps of each on a handful of images."""

from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data import Batch, Dataset
from gauntlet.jobs.training_job import KEYS
from gauntlet.threat_model.rng import Rng
from gauntlet.training.trained_network import TrainedNetwork
from gauntlet.training.trainer import TrainingRun

RECIPES = Path(CONF) / "recipe"
FULL = sorted(
    path.stem
    for path in RECIPES.glob("*_cifar.yaml")
    if not path.stem.startswith(("advmoe", "self_ensemble", "rift", "pubdef"))
)
MODELS = {
    "preact_resnet18": ["model.width=4"],
    "resnet18": ["model.width=4"],
    "wrn_34_10": ["model.depth=10", "model.width=1"],
    "moe_resnet18": ["model.width=4"],
}


@dataclass(frozen=True)
class Noise:
    """Random images of 32x32 pixels; the number of classes is that of the data set it stands for."""

    classes: int
    ids: list[int] = field(default_factory=lambda: list(range(12)))
    channels: int = 3
    size: int = 32

    def split(self, part):
        return self

    def read(self, positions):
        ids = torch.arange(12)[positions]
        return Batch(ids, Rng(0, ids).uniform((3, 32, 32)), ids % self.classes)


@dataclass(frozen=True)
class Photographs:
    """The first twelve images of each part of a data set; the test part is out of reach."""

    whole: Dataset

    @property
    def channels(self):
        return self.whole.channels

    @property
    def size(self):
        return self.whole.size

    @cached_property
    def opened(self):
        """Its training part; opening it orders all its images."""
        return self.whole.split("train")

    @property
    def ids(self):
        return self.opened.ids[:12]

    def split(self, part):
        assert part != "test"
        return self

    def read(self, positions):
        return self.opened.read(list(range(12))[positions] if isinstance(positions, slice) else positions)


@cache
def _composed(*overrides):
    """No test changes it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return checked(compose("train", list(overrides)), KEYS)


def _model(name, model):
    """The overrides that make a small network, for CondLR one of factors."""
    if not name.startswith("condlr"):
        return [f"model={model}", *MODELS[model]]
    inner = [setting.replace("model.", "model.network.") for setting in MODELS[model]]
    return ["model=low_rank", f"model@model.network={model}", *inner]


def _recipe(cfg):
    return TrainedNetwork(OmegaConf.to_container(cfg.model), OmegaConf.to_container(cfg.recipe)).built_recipe({})


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize(("dataset", "model"), [("cifar10", "preact_resnet18"), ("cifar100", "wrn_34_10")])
def test_a_published_recipe_makes_its_steps(name, dataset, model):
    cfg = _composed(f"recipe={name}", f"dataset={dataset}", *_model(name, model))
    torch.manual_seed(0)
    run = TrainingRun(build(cfg.model), Noise(cfg.dataset.classes), _recipe(cfg), 0, torch.device("cpu"))
    before = [weight.detach().clone() for weight in run.model.parameters()]
    run.epoch = run.recipe.epochs // 2  # where every piece takes part
    for player in run._players:
        run._update(run._train.read(list(range(12))))
        assert player.weights
    assert all(weight.isfinite().all() for weight in run.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(run.model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", [*FULL, "advmoe_cifar"])
def test_a_published_recipe_trains_on_photographs(name, shared):
    """An epoch of two batches, its end included: selection, alarms, and for AdvMoE the loads."""
    model = "moe_resnet18" if name.startswith("advmoe") else "preact_resnet18"
    cfg = _composed(
        f"recipe={name}", "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", *_model(name, model),
        "recipe.batch_size=6", "recipe.epochs=1",
    )  # fmt: skip
    torch.manual_seed(0)
    run = TrainingRun(build(cfg.model), Photographs(build(cfg.dataset)), _recipe(cfg), 0, torch.device("cpu"))
    assert list(run.steps()) == [False, True]
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    (epoch,) = run.history.epochs
    assert 0 <= epoch.pgd <= epoch.clean <= 1 or run.recipe.selection.by == "clean"
    assert ("load/0" in epoch.columns) == name.startswith("advmoe")


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("pgd_at_cifar", {1: 0.1, 100: 0.1, 101: 0.01, 150: 0.01, 151: 0.001}),
        ("pgd_at_awp_cifar", {100: 0.1, 101: 0.01}),
        ("trades_cifar", {74: 0.1, 75: 0.01, 76: 0.01}),
        ("trades_awp_cifar", {100: 0.1, 101: 0.01}),
        ("mart_cifar", {74: 0.01, 75: 1e-3, 89: 1e-3, 90: 1e-4, 99: 1e-4, 100: 1e-5, 120: 1e-5}),
        ("mail_cifar", {75: 0.01, 76: 1e-3, 90: 1e-3, 91: 1e-4, 100: 1e-4, 101: 1e-5}),
        ("dafa_cifar", {100: 0.1, 101: 0.01, 105: 0.01, 106: 1e-3}),
        ("amp_cifar", {100: 0.1, 101: 0.01}),
        ("barre_cifar", {50: 0.1, 51: 0.01, 75: 0.01, 76: 1e-3}),
    ],
)
def test_the_rates_fall_in_the_epochs_of_the_released_code(name, rates):
    """Epochs from one, each with 7 steps."""
    recipe = _recipe(_composed(f"recipe={name}"))
    found = {epoch: recipe.rate(7 * (epoch - 1), 7 * recipe.epochs) for epoch in rates}
    assert found == pytest.approx(rates)
    assert {epoch: recipe.rate(7 * epoch - 1, 7 * recipe.epochs) for epoch in rates} == pytest.approx(rates)


def test_fast_recipes_go_up_to_the_peak_in_the_middle():
    for name in ("fgsm_rs_cifar", "n_fgsm_cifar"):
        recipe = _recipe(_composed(f"recipe={name}"))
        assert [recipe.rate(step, 100) for step in (0, 25, 50, 75)] == pytest.approx([0, 0.1, 0.2, 0.1])


def test_budgets_and_steps_are_those_of_the_papers():
    sizes = {}
    for name in FULL:
        attack = getattr(_recipe(_composed(f"recipe={name}")).objective, "attack", None)
        if attack is not None:
            eps = build({"_target_": "gauntlet.threat_model.threat.Threat", "norm": "linf", "eps": attack.eps}).radius
            sizes[name] = (round(eps, 6), round(eps * attack.step_size, 6))
    full, step = round(8 / 255, 6), round(2 / 255, 6)
    assert sizes == {
        "pgd_at_cifar": (full, step), "pgd_at_awp_cifar": (full, step), "trades_awp_cifar": (full, step),
        "trades_cifar": (0.031, 0.007), "mart_cifar": (0.031, 0.007),
        "fgsm_rs_cifar": (full, round(10 / 255, 6)), "n_fgsm_cifar": (full, full), "barre_cifar": (full, step),
        "comp_sum_cifar": (full, step), "ldr_cifar": (full, step), "lrat_cifar": (full, step),
        "done_cifar": (full, step), "dafa_cifar": (0.031, 0.007), "gairat_cifar": (0.031, 0.007),
        "mail_cifar": (0.031, 0.007), "advprop_cifar": (round(1 / 255, 6),) * 2,
        "conadv_cifar": (round(1 / 255, 6),) * 2,
    }  # fmt: skip
